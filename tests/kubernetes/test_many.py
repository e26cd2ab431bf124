"""A hundred model deployments beside the one that serves."""

import many
import pytest

COUNT = 100


@pytest.mark.control
@pytest.mark.timeout(300)
def test_a_hundred_model_deployments_get_their_status(naru):
    try:
        many.apply(naru.cluster, COUNT)
        many.settle(naru.cluster, COUNT, 60)
        page = many.operator_metrics(naru.cluster)
        assert many.value(page, "naru_reconcile_total") >= COUNT
        assert many.value(page, "naru_reconcile_errors_total") == 0
    finally:
        naru.kubectl("delete", "namespace", many.NAMESPACE, "--ignore-not-found", "--timeout=120s")
