"""Whether AWS lets this instance send and receive for its containers."""

from __future__ import annotations

from proxygen.network.config import AwsVpc
from proxygen.network.doctor.facts import AwsFacts, LeaseFacts, known
from proxygen.network.doctor.finding import Skipped, Unknown
from proxygen.network.fabric import Underlay


async def read_aws(lease: LeaseFacts | Unknown, underlay: Underlay | Unknown) -> AwsFacts:
    config = known(lease).view.config
    if config is None or not isinstance(config.backend, AwsVpc):
        raise Skipped("the backend is not aws-vpc")
    known(underlay)
    raise Skipped("the instance's interface is not known")
