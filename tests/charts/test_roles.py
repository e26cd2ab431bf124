"""The comparison of roles and audit log, itself."""

import json

import roles
from roles import Grant

ROLES = [
    {"kind": "ClusterRole", "metadata": {}, "rules": [{"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["create", "patch"]}]},
    {
        "kind": "Role",
        "metadata": {"namespace": "n"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["ca"], "verbs": ["get"]}],
    },
    {"kind": "ServiceAccount", "metadata": {}},
]  # fmt: skip


BINDINGS = [
    {"kind": "ClusterRole", "metadata": {"name": "wide"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
    {"kind": "ClusterRole", "metadata": {"name": "urls"}, "rules": [{"nonResourceURLs": ["/x"], "verbs": ["get"]}]},
    {"kind": "Role", "metadata": {"name": "wide", "namespace": "n"}, "rules": []},
    *(
        {
            "kind": kind, "metadata": {"name": role, "namespace": namespace}, "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": subject, "namespace": "n"}, {"kind": "Group", "name": "me"}],
        }
        for kind, role, namespace, subject in [
            ("ClusterRoleBinding", "urls", "", "me"), ("RoleBinding", "wide", "there", "me"), ("ClusterRoleBinding", "wide", "", "you"),
        ]
    ),
]  # fmt: skip


def event(verb, resource, name="", group="", namespace="n", code=200, user="me", subresource="", stage="ResponseComplete"):
    what = {"resource": resource, "name": name, "apiGroup": group, "namespace": namespace, "subresource": subresource}
    return json.dumps({
        "user": {"username": user}, "stage": stage, "verb": verb,
        "objectRef": {key: value for key, value in what.items() if value}, "responseStatus": {"code": code},
    })  # fmt: skip


def test_grants_are_one_verb_on_one_thing():
    assert roles.granted(ROLES) == {
        Grant("apps", "statefulsets", "create"),
        Grant("apps", "statefulsets", "patch"),
        Grant("", "secrets", "get", "ca", "n"),
    }


def test_an_account_holds_what_is_bound_to_it_and_where_it_is():
    assert roles.held(BINDINGS, "me", "n") == {Grant("", "pods", "get", "", "there")}
    assert roles.held(BINDINGS, "you", "n") == {Grant("", "pods", "get")}
    assert roles.held(BINDINGS, "me", "elsewhere") == set()


def test_acts_are_the_accounts_own_and_finished():
    log = [
        event("get", "secrets", "ca"),
        event("get", "secrets", "ca", user="somebody"),
        event("watch", "pods", stage="ResponseStarted"),
        event("list", "nodes", stage="RequestReceived"),
        event("patch", "modeldeployments", "x", "naru.dev", subresource="status"),
        event("delete", "pods", "y", code=403),
        json.dumps({"user": {"username": "me"}, "stage": "ResponseComplete", "verb": "get", "requestURI": "/version"}),
        json.dumps({"user": {}, "stage": "ResponseComplete", "verb": "get", "objectRef": {"resource": "pods"}}),
    ]
    acts, refused = roles.done(log, "me")
    assert acts == {
        Grant("", "secrets", "get", "ca", "n"),
        Grant("", "pods", "watch", "", "n"),
        Grant("naru.dev", "modeldeployments/status", "patch", "x", "n"),
    }
    assert refused == {Grant("", "pods", "delete", "y", "n")}


def test_apply_of_what_is_new_is_a_creation_too():
    acts, _ = roles.done([event("patch", "statefulsets", "x-0", "apps", code=201)], "me")
    assert {act.verb for act in acts} == {"patch", "create"}
    assert roles.unused(roles.granted(ROLES), acts) == {Grant("", "secrets", "get", "ca", "n")}


def test_a_grant_by_name_is_not_used_by_another_name_or_place():
    grant = Grant("", "secrets", "get", "ca", "n")
    for act in (Grant("", "secrets", "get", "other", "n"), Grant("", "secrets", "get", "ca", "m"), Grant("", "secrets", "list", "", "n")):
        assert roles.unused({grant}, {act}) == {grant}
        assert roles.ungranted({act}, {grant}) == {act}
    assert roles.unused({grant}, {grant}) == roles.ungranted({grant}, {grant}) == set()
