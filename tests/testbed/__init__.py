"""Real VMs in miniature: network namespaces with a real SSH server, for the fakes of the clouds to boot."""

import pytest

pytest.register_assert_rewrite("tests.testbed.bench", "tests.testbed.worlds", "tests.testbed.crashes")
