"""An object store for tests whose processes find it in the environment."""

import pytest

from batch.s3_server import S3Server
from corellarec.batch import folder


@pytest.fixture(scope="module")
def s3():
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        folder._store.cache_clear()
        yield server
        folder._store.cache_clear()
