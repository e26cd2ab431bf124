"""A real Kubernetes for tests, of two nodes, on one Linux machine: no registry, no virtual machine, no Docker.

    with cluster.lifecycle.fresh(cluster.programs.ensure()) as it:
        it.kubectl("get", "nodes")

`programs` builds or fetches what runs; `layout` says where everything is; `machine` plays one computer with
namespaces and a cgroup; `network` joins the computers; `pki` gives them certificates; `control_plane` and
`node` say what runs on them; `lifecycle` brings it all up, and down to nothing. All that uses only the standard
library, so that `make cluster` works before anything is installed. `fixtures` is what tests see of it.
"""
