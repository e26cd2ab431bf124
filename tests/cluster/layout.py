"""Where everything of one cluster is, and what it is called. All of it follows from the cluster's number, so
that whatever a killed run has left can be found again without any record of it."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

NUMBERS = range(16)  # as many clusters may be up side by side
FOR_PEOPLE, FOR_TESTS = NUMBERS[:8], NUMBERS[8:]  # `make cluster` makes 0; tests may do away with any of theirs
STATE = Path("/var/lib/naru-cluster")
LOCKS = Path("/run/lock")


@dataclass(frozen=True)
class NodeLayout:
    """One node: its place in the network and in the world."""

    name: str
    zone: str
    address: IPv4Address
    pods: IPv4Network

    @property
    def region(self):
        return self.zone.rsplit("-", 1)[0]


@dataclass(frozen=True)
class Layout:
    """One cluster."""

    number: int

    @property
    def name(self):
        return f"naru-cluster-{self.number}"

    @property
    def directory(self):
        """Everything that the cluster writes lies in here."""
        return STATE / str(self.number)

    @property
    def cgroup(self):
        """Every process of the cluster is in this cgroup or below it."""
        return self.name

    @property
    def host_link(self):
        """The host's end of the cable to the cluster."""
        return f"naru{self.number}"

    @property
    def network(self):
        return IPv4Network(f"10.250.{self.number}.0/24")

    @property
    def host_address(self):
        return self.network[254]

    @property
    def control_address(self):
        """Of the machine that runs the control plane and answers DNS."""
        return self.network[10]

    @property
    def services(self):
        return IPv4Network(f"10.{96 + self.number}.0.0/16")

    @property
    def api_service_address(self):
        return self.services[1]

    @property
    def pods(self):
        return IPv4Network(f"10.{244 - self.number}.0.0/16")

    @property
    def nodes(self):
        pods = list(self.pods.subnets(new_prefix=24))
        return (
            NodeLayout("node1", "sa-riyadh-1", self.network[1], pods[1]),
            NodeLayout("node2", "th-bangkok-1", self.network[2], pods[2]),
        )

    @property
    def api_url(self):
        return f"https://{self.control_address}:6443"

    @property
    def kubeconfig(self):
        return self.directory / "kubeconfig"

    @property
    def bin(self):
        """The programs that people and tests call."""
        return self.directory / "bin"

    @property
    def cache(self):
        """What kubectl remembers of the API; elsewhere it would outlive the cluster."""
        return self.directory / "cache"

    @property
    def audit_log(self):
        return self.directory / "control" / "audit.log"

    @property
    def marker(self):
        """Written last, when the cluster is up; holds the fingerprint of what it was made of."""
        return self.directory / "up"
