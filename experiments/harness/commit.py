"""Commit a checkpoint of Orbax together with the manifest of its files."""

import asyncio
import os
from pathlib import Path

from orbax.checkpoint.path import atomicity

from experiments.harness.manifest import seal


class SealedPath(atomicity.AtomicRenameTemporaryPath):
    """Write the manifest before the rename, so that a checkpoint is there with it or not at all."""

    async def finalize(self) -> None:
        """Do what Orbax calls, in its background thread, when the last file is written."""
        if atomicity.TMP_DIR_SUFFIX in self.get().parent.name:  # a part of a checkpoint
            return await super().finalize()
        if self._checkpoint_metadata_store:
            await asyncio.to_thread(self._checkpoint_metadata_store.wait_until_finished)
        await asyncio.to_thread(seal, Path(self.get()))
        await asyncio.to_thread(os.replace, self.get(), self.get_final())
