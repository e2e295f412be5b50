import os
import pytest
from tests.integration.conftest import *
from tests.integration.test_prepare import *
@pytest.mark.parametrize("n",[1,2,3,4,5])
def test_x(unprepared, n):
    job=unprepared
    code = KILL_AT.replace("def die(*arguments, **options):\n", "count=[0]\nreal=os.rename\ndef die(*arguments, **options):\n    count[0]+=1\n    if count[0] < %d: return real(*arguments)\n" % n)
    common = ["--job", str(job.id), "--user", job.user, "--cgroup", job.cgroup]
    d=subprocess.run([PYTHON,"-c",code,"os.rename","prepare",*common,"--node",job.node,"--nodes",job.node],env={"PYTHONPATH": str(checkout()), "PATH": os.environ["PATH"]},capture_output=True)
    print(d)
    assert d.returncode==-9
    job.destroy()
    print([x for x in os.listdir("/etc")+os.listdir("/etc/lxc")+os.listdir(STATE/"records") if x.startswith(".") ])
    print(left(job,0)); assert 0
