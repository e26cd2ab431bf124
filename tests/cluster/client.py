"""kubectl and Helm, aimed at one cluster and at nothing else, whatever the caller's own settings are."""

import os
import shutil
import subprocess

from .failure import Failed

COMMAND_SECONDS_MAX = 180


class Client:
    """Talks to the cluster of `kubeconfig` with the programs that `find` finds by name."""

    def __init__(self, kubeconfig, find=shutil.which, environment=None):
        self.kubeconfig = kubeconfig
        self._find = find
        self._environment = {"KUBECONFIG": str(kubeconfig)} | (environment or {})

    def kubectl(self, *arguments, text=None):
        """Runs kubectl with `text` as its standard input, and returns what it printed."""
        return self._call("kubectl", arguments, text)

    def helm(self, *arguments, text=None):
        return self._call("helm", arguments, text)

    def _call(self, program, arguments, text):
        path = self._find(program)
        if not path:
            raise Failed(f"please install {program}: it is not in PATH")
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "HELM"))}
        words = [str(argument) for argument in arguments]
        try:
            result = subprocess.run(
                [path, *words],
                input=text,
                stdin=subprocess.DEVNULL if text is None else None,
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS_MAX,
                env=mine | self._environment,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{program} {' '.join(words)}: no end after {COMMAND_SECONDS_MAX} s") from None
        if result.returncode != 0:
            raise Failed(f"{program} {' '.join(words)}: {result.stderr.strip()}")
        return result.stdout
