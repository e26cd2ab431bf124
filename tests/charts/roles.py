"""What an account may do, by its roles, beside what it did, by the API server's audit log."""

import dataclasses
import json

ANSWERED = {"ResponseStarted", "ResponseComplete"}
"""A watch is answered when it starts; it may not have ended when the log is read."""


@dataclasses.dataclass(frozen=True, order=True)
class Grant:
    """One verb on one resource; of one object by name, or of all (`name` empty); in one namespace, or in all."""

    group: str
    resource: str
    verb: str
    name: str = ""
    namespace: str = ""

    def covers(self, act):
        """Whether `act`, whose name and namespace are exact, is allowed by this."""
        return (
            (self.group, self.resource, self.verb) == (act.group, act.resource, act.verb)
            and self.name in ("", act.name)
            and self.namespace in ("", act.namespace)
        )


def granted(objects):
    """Every grant in the Roles and ClusterRoles among `objects`."""
    roles = [found for found in objects if found["kind"] in ("Role", "ClusterRole")]
    return set().union(*(grants(role, role["metadata"].get("namespace", "")) for role in roles))


def held(objects, account, namespace):
    """What the service account `account` of `namespace` may do, by the bindings and roles among `objects`."""
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    roles = {place(found): found for found in objects}
    found = set()
    for binding in objects:
        if any(subject.items() <= each.items() for each in binding.get("subjects", ())):
            where = binding["metadata"].get("namespace", "")
            kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
            found |= grants(roles[kind, where if kind == "Role" else "", name], where)
    return found


def place(found):
    return found["kind"], found["metadata"].get("namespace", ""), found["metadata"]["name"]


def grants(role, namespace):
    """The grants of one role that is bound in `namespace`, or everywhere (empty)."""
    return {
        Grant(group, resource, verb, name, namespace)
        for rule in role.get("rules") or ()
        for group in rule.get("apiGroups", ())  # rules on URLs have none
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def done(log, account):
    """What `account` did (a set of acts) and what it was refused, from the lines of an audit log."""
    acts, refused = set(), set()
    for line in log:
        event = json.loads(line)
        what = event.get("objectRef")
        # Who shows a token of an account that is gone has no name.
        if event["user"].get("username") != account or event["stage"] not in ANSWERED or not what:
            continue
        resource = "/".join(part for part in (what["resource"], what.get("subresource")) if part)
        act = Grant(what.get("apiGroup", ""), resource, event["verb"], what.get("name", ""), what.get("namespace", ""))
        code = event.get("responseStatus", {}).get("code")
        (refused if code == 403 else acts).add(act)
        # Server-side apply of what is not there yet asks for a second right, of which the log does not speak.
        if (act.verb, code) == ("patch", 201):
            acts.add(dataclasses.replace(act, verb="create"))
    return acts, refused


def unused(grants, acts):
    """The grants that nothing needed."""
    return {grant for grant in grants if not any(grant.covers(act) for act in acts)}


def ungranted(acts, grants):
    """What was done, or tried, without any of the grants."""
    return {act for act in acts if not any(grant.covers(act) for grant in grants)}
