"""Opens a study: what it is of is kept, its journal is taken over and replayed, and what killed drivers left is removed.

studies/<key>/study.json   journal/   journal-snapshots/   trials/<number>/<epoch>-<hash>.safetensors
"""

from __future__ import annotations

from dataclasses import dataclass

from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.search import transfer
from foundry_ray.search.coordinator import Coordinator
from foundry_ray.search.course import Course
from foundry_ray.search.journal import Journal
from foundry_ray.search.rules import Rules
from foundry_ray.search.transfer import StudyIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlace:
    """Where a study is kept, and by whom.

    Attributes:
        driver: Identity of this process, unique among all that ever open the study.
    """

    store: ArtifactStore
    study_key: str
    driver: str

    @property
    def trials(self) -> str:
        """Where its trials keep their checkpoints."""
        return f"studies/{self.study_key}/trials"

    @property
    def journal(self) -> str:
        """Where its journal lies."""
        return f"studies/{self.study_key}/journal"


def open_study(rules: Rules, identity: StudyIdentity, *, place: StudyPlace, clock: Clock) -> Coordinator:
    """Take a study over, as it stands; a new one begins with what it extends.

    Raises:
        Conflict: Another driver opened it at the same moment.
        ConfigError: It extends a study that is not there.
        ArtifactCorrupt: Its journal cannot be read.
    """
    journal = Journal(place.store, place.journal, driver=place.driver)
    events = journal.open(lambda: transfer.taken_over(rules, identity, place.store))
    transfer.write_identity(place.store, place.study_key, identity)
    course = Course(rules, prefix=f"{place.trials}/")
    for event in events:
        course.saw(event)
    if len(events) > 1:
        left = course.checkpoints.unneeded(info.key for info in place.store.list(f"{place.trials}/"))
        if left:
            place.store.delete(*left)
    return Coordinator(rules, course=course, journal=journal, clock=clock)
