"""What an output folder remembers: which file was made from what, with which settings, under which plan.

``.robustsr.jsonl`` in the folder grows by one JSON line per event and is never rewritten; a line that a killed
run left half-written is passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .catalogue import sha256

NAME = ".robustsr.jsonl"


@dataclass
class Manifest:
    """The record of one output folder, read once and appended to."""

    folder: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)  # by target, relative to the folder
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)  # by settings digest

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder; an empty one if it has none."""
        manifest = cls(folder)
        try:
            lines = (folder / NAME).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return manifest
        for line in lines:
            try:
                event = json.loads(line)
                if event["event"] == "plan":
                    manifest.plans[event["settings"]] = dict(event["plan"])
                else:
                    manifest.done[event["target"]] = event
            except (ValueError, KeyError, TypeError):
                continue  # half a line, or one of another version: the file it spoke of is simply redone
        return manifest

    def is_done(self, source: Path, target: Path, settings: str) -> bool:
        """Whether ``target`` is whole and was made from ``source`` as it is now with these settings."""
        event = self.done.get(self._key(target))
        if event is None or event["settings"] != settings or not target.is_file():
            return False
        now = source.stat()
        if target.stat().st_size != event["target_bytes"] or now.st_size != event["source_bytes"]:
            return False
        return bool(now.st_mtime_ns == event["source_mtime_ns"] or sha256(source) == event["source_sha256"])

    def wrote(self, source: Path, stat: os.stat_result, digest: str, target: Path, settings: str) -> None:
        """Records a finished file; ``stat`` and ``digest`` are those of the source when it was read."""
        event: dict[str, Any] = {
            "event": "done",
            "target": self._key(target),
            "target_bytes": target.stat().st_size,
            "source": os.path.relpath(source, self.folder),
            "source_bytes": stat.st_size,
            "source_mtime_ns": stat.st_mtime_ns,
            "source_sha256": digest,
            "settings": settings,
        }
        self._append(event)
        self.done[event["target"]] = event

    def use(self, settings: str, plan: dict[str, Any], described: dict[str, Any]) -> None:
        """Records the plan these settings are carried out with from now on."""
        if self.plans.get(settings) != plan:
            self.plans[settings] = plan
            self._append({"event": "plan", "settings": settings, "plan": plan, "described": described})

    def _key(self, target: Path) -> str:
        return target.relative_to(self.folder).as_posix()

    def _append(self, event: dict[str, Any]) -> None:
        path = self.folder / NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:  # a line cut short by a kill is ended first
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")
            file.write(json.dumps(event, ensure_ascii=False, sort_keys=True).encode() + b"\n")


def digest(settings: dict[str, Any]) -> str:
    """A short name for settings: equal settings, equal names."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
