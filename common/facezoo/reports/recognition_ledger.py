"""Tables of a recognition ledger: what each choice between photo and embedding costs."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from .tables import EMPTY, Say, markdown_table

__all__ = ["RECOGNITION_LEDGER_SCHEMA", "ledger_entry", "render_recognition_ledger"]

RECOGNITION_LEDGER_SCHEMA = "facezoo.recognition_ledger/1"


def ledger_entry(
    ledger: Mapping[str, Any], head: Mapping[str, Any], published: Mapping[str, Any]
) -> Dict[str, Any]:
    """Join a ledger with what it was measured on, and with the published accuracy.

    Parameters
    ----------
    ledger
        ``RecognitionLedger.to_dict()``.
    head
        ``card``, ``dataset``, ``folds``, ``protocol``, ``machine`` and ``command``.
    published
        ``accuracy`` in points and ``printed_in``; empty if nothing is published.

    Returns
    -------
    dict
        JSON values. Its ``chain`` leads from the published accuracy to the best alignment and to
        the default; the costs of its rows add up to the whole difference.
    """
    best, default = ledger["best"], ledger["default"]
    chain: List[Dict[str, Any]] = []
    if published:
        chain.append({"label": "published", "accuracy": published["accuracy"], "cost": 0.0})
        rest = best["accuracy"] - published["accuracy"]
        label = f"other crops than the publisher's: {best['label']}"
        chain.append({"label": label, "accuracy": best["accuracy"], "cost": rest})
    else:
        chain.append({"label": best["label"], "accuracy": best["accuracy"], "cost": 0.0})
    cost = default["accuracy"] - best["accuracy"]
    chain.append({"label": "default", "accuracy": default["accuracy"], "cost": cost})
    return {
        "schema": RECOGNITION_LEDGER_SCHEMA,
        **head,
        "published": dict(published) or None,
        "chain": chain,
        **ledger,
    }


def render_recognition_ledger(entry: Mapping[str, Any], say: Say = str) -> str:
    """Format a ledger as Markdown.

    Parameters
    ----------
    entry
        The output of ``facezoo evaluate verification --ledger``.
    say
        Translates the words of the tables.

    Returns
    -------
    str
        The steps from the published accuracy to the default, whose costs add up; each choice alone;
        the alignments of which the best was chosen; and the pairs that limit it.
    """
    settings = (
        f"{entry['card']}, {entry['dataset']}, {entry['protocol']}; {entry['machine']}: "
        f"`{entry['command']}`"
    )
    half = entry["folds"] // 2
    steps = [[say(one["label"]), _points(one["accuracy"]), _cost(one)] for one in entry["chain"]]
    total = entry["chain"][-1]["accuracy"] - entry["chain"][0]["accuracy"]
    steps.append([say("in all"), _points(entry["chain"][-1]["accuracy"]), f"{total:+.3f}"])
    choices = [say("Choice"), say("accuracy, %"), f"1–{half}", f"{half + 1}–{entry['folds']}"]
    choices += [say("wrong pairs"), say("cost")]
    pairs = [
        [
            f"`{one['first']}`",
            f"`{one['second']}`",
            say("one person" if one["same"] else "two people"),
            str(one["fold"]),
            f"{one['cosine']:.3f}",
        ]
        for one in entry["limiting"]
    ]
    names = [say(word) for word in ("Photo", "Photo", "says the list", "fold", "cosine")]
    best = entry["best"]
    found = (
        f"{say('Chosen on folds')} 1–{half}: {best['label']}. {say('On the other folds')}: "
        f"{_points(best['reported_on'])} %; {say('on all')}: {_points(best['accuracy'])} %."
    )
    return "\n\n".join(
        [
            settings,
            say("From the published accuracy to the default, each on top of the one before:"),
            markdown_table((say("Choice"), say("accuracy, %"), say("cost")), steps, (1, 2)),
            say("Each alone, against the default; the columns with numbers are folds:"),
            markdown_table(choices, [_row(one, say) for one in _alone(entry)], (1, 2, 3, 4, 5)),
            found,
            say("Pairs that the best alignment decides wrongly; they are listed, not removed:"),
            markdown_table(names, pairs, (3, 4)),
        ]
    )


def _alone(entry: Mapping[str, Any]) -> List[Mapping[str, Any]]:
    """Return the default, each choice alone, and the best if it is a combination."""
    rows = [entry["default"], *entry["alone"]]
    known = {one["label"] for one in rows}
    return [*rows, *(one for one in entry["candidates"] if one["label"] not in known)]


def _row(one: Mapping[str, Any], say: Say) -> List[str]:
    if one["accuracy"] is None:
        return [f"{one['label']}: {say('not measured')}, {say(one['note'])}", *[EMPTY] * 5]
    numbers = (_points(one[name]) for name in ("accuracy", "chosen_on", "reported_on"))
    return [say(one["label"]), *numbers, str(one["wrong"]), _cost(one)]


def _points(value: float) -> str:
    return f"{value:.3f}"


def _cost(one: Mapping[str, Any]) -> str:
    return f"{one['cost']:+.3f}"
