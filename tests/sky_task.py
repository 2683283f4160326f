"""sky.yaml as SkyPilot itself reads it, as it is and with its bucket: by `make lint`, in an
environment of its own, since SkyPilot brings a hundred packages. Asks no cloud for anything."""
import os, re, sys, tempfile
from pathlib import Path

# SkyPilot keeps a database in the home folder, and tells its makers what it is used for
os.environ.update(HOME=tempfile.mkdtemp(), SKYPILOT_DISABLE_USAGE_COLLECTION='1')
import sky

FILE = Path(__file__).resolve().parents[1]/'sky.yaml'


def read(text: str) -> sky.Task:
    "The task, checked by SkyPilot against its schema."
    path = Path(os.environ['HOME'], 'sky.yaml')
    path.write_text(text)
    return sky.Task.from_yaml(str(path))


def main():
    text = FILE.read_text()
    task = read(text)
    assert len(task.resources) > 1
    for r in task.resources:
        [count] = r.accelerators.values()
        assert r.use_spot and count == 1, r
        assert r.autostop_config.down and 0 < r.autostop_config.idle_minutes <= 60, r
    assert not task.storage_mounts and task.workdir == '.'
    with_bucket, lines = re.subn(r'^# (?=file_mounts:|  /runs:|    \{name:)', '', text, flags=re.M)
    assert lines == 3
    [(place, bucket)] = read(with_bucket).storage_mounts.items()
    assert (place, bucket.mode.name) == ('/runs', 'MOUNT_CACHED')
    print(f'SkyPilot {sky.__version__}: {task.name}, {len(task.resources)} kinds of GPU, bucket')


if __name__ == '__main__': sys.exit(main())
