"""Lightning's Trainer over torch's DistributedDataParallel: its DeepSpeed strategy refuses every accelerator but CUDA.

    RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 TORCHELASTIC_RUN_ID=x \
        python -m benchmarks.peers_train.lightning_trainer JOB.json
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl  # type: ignore[import-not-found,unused-ignore]
import torch
from lightning.pytorch.strategies import DDPStrategy  # type: ignore[import-not-found,unused-ignore]
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.peers_train import job as jobs
from benchmarks.peers_train.job import Job, Marks


class _Module(pl.LightningModule):  # type: ignore[misc,unused-ignore]
    """The job as Lightning wants it."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.network = job.network()
        self.losses: list[float] = []
        self._num_steps = job.num_steps

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images_BCHW, labels_B = batch
        loss = nn.functional.cross_entropy(self.network(images_BCHW).float(), labels_B)
        self.losses.append(jobs.check(loss))
        return loss

    def configure_gradient_clipping(self, optimizer: object, gradient_clip_val: float, gradient_clip_algorithm: str | None) -> None:
        """By hand: Lightning's own clipping refuses a fused optimizer, which need not be told about any scale here."""
        nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> object:
        optimizer = jobs.optimizer(self.network)
        schedule = LambdaLR(optimizer, lambda step: jobs.factor_at(step, self._num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Batches:
    """An iterable of known length, which Lightning does not look ahead in."""

    def __init__(self, job: Job, marks: Marks) -> None:
        self._job, self._marks = job, marks

    def __len__(self) -> int:
        return self._job.num_steps

    def __iter__(self) -> object:
        return jobs.batches(self._job, self._marks)


def main(job: Job) -> None:
    """Train, and write the speed. All that Lightning logs, shows or saves by default is off."""
    warnings.filterwarnings("ignore")
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=jobs.world_size(),
        strategy=DDPStrategy(process_group_backend="gloo", broadcast_buffers=False),
        precision="bf16-mixed",
        gradient_clip_val=jobs.MAX_NORM,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    marks, module = Marks(job), _Module(job)
    trainer.fit(module, _Batches(job, marks))
    marks.finish(module.losses, f"lightning {pl.__version__}, Trainer, DDP")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Job.read(Path(sys.argv[1])))
    jobs.leave()
