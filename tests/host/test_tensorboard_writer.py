"""TensorBoard on a full disk."""

from host_tools import basicsr_log

from cir_host.tensorboard_writer import survive_full_disk


class Writer:
    def __init__(self, folder):
        self.log_dir, self.values = folder, []

    def add_scalar(self, tag, value, step):
        if step == 2:
            raise OSError(28, "No space left on device")
        self.values.append(value)

    def close(self):
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_one_error_and_ends_nothing():
    writer = survive_full_disk(Writer)("runs/x")
    with basicsr_log() as log:
        for step in (1, 2, 3):
            writer.add_scalar("l", step, step)
        writer.close()
    assert writer.values == [1]
    assert writer.log_dir == "runs/x"
    assert log == [
        "runs/x: cannot be written (No space left on device); TensorBoard gets no further values."
    ]


def test_a_process_without_a_writer_has_none():
    """BasicSR opens one in the first process only; the others must not take it for one."""
    assert survive_full_disk(lambda log_dir: None)("runs/x") is None
