"""Versions of a model under a name, aliases that point at them, and the rule that guards promotion.

Everything is a numbered object that is created once and never changed, so that the number is the lock and the series is the history:

    registry/<name>/versions/<version>         the model and its lineage
    registry/<name>/reports/<version>/<n>      what an evaluation said about it; the last one counts
    registry/<name>/tags/<version>/<n>         the user's tags; the last set counts
    registry/<name>/signatures/<version>/<n>   signatures; any that is valid counts
    registry/<name>/aliases/<alias>/<n>        where the alias points since then: who, when, why, from where, and a copy of the version
    registry/<name>/models/<version>-<sha256>  which model a version holds; an index that is mended where it lacks an entry
    registry-names/<name>                      which names there are

Requests that an operation costs at most, whatever the number of versions (a listing is one a thousand objects):

    resolve(name@alias)     4 (6 for what format 1 wrote)     resolve(name:version)   3 (4)
    show                    6, and 1 an alias                 model_card              9, and 1 an alias
    promote                 6 (8)                             rollback                5, and 1 a move of the alias
    tag                     4                                 register                22, and 1 an alias; again, 1 a move of the champion
    versions                2 or 3 a version, 1 an alias, and the listing of the name; several at a time

Read `reading` first, then `promoting`.
"""

from foundry_ray.registry.cards import CARD_FILE, ModelCard, fallen_warning, is_fallen, model_card, published_card, recipe_in_words
from foundry_ray.registry.facade import Registry, pull
from foundry_ray.registry.lineage import commit_of, lineage_of_run
from foundry_ray.registry.moves import AliasMove, history, standing
from foundry_ray.registry.naming import CHAMPION, parse, parse_alias
from foundry_ray.registry.promoting import promote, rollback
from foundry_ray.registry.reading import resolve, show, versions
from foundry_ray.registry.records import Verdict, Version, names, read_report
from foundry_ray.registry.registering import adopt, register
from foundry_ray.registry.series import Note, write_note
from foundry_ray.registry.signatures import SignatureState, check_entry, check_signature, sign_entry
from foundry_ray.registry.signing import KeyKind, write_key
from foundry_ray.registry.tagging import parse_tags, tag
from foundry_ray.registry.verifying import verify

__all__ = [
    "CARD_FILE",
    "CHAMPION",
    "AliasMove",
    "KeyKind",
    "ModelCard",
    "Note",
    "Registry",
    "SignatureState",
    "Verdict",
    "Version",
    "adopt",
    "check_entry",
    "check_signature",
    "commit_of",
    "fallen_warning",
    "history",
    "is_fallen",
    "lineage_of_run",
    "model_card",
    "names",
    "parse",
    "parse_alias",
    "parse_tags",
    "promote",
    "published_card",
    "pull",
    "read_report",
    "recipe_in_words",
    "register",
    "resolve",
    "rollback",
    "show",
    "sign_entry",
    "standing",
    "tag",
    "verify",
    "versions",
    "write_key",
    "write_note",
]
