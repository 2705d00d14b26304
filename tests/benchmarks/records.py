"""Where the results of this machine lie: a folder of its own below results."""

import json
import re
from pathlib import Path

from facezoo.machine import describe_machine

RESULTS = Path(__file__).parent / "results"
RECORD = "machine.json"


def folder_of_this_machine(results=RESULTS):
    """Return the folder of the machine that runs this; it is made if there is none."""
    machine = describe_machine()
    for record in results.glob(f"*/{RECORD}"):
        if json.loads(record.read_text("utf-8")) == machine:
            return record.parent
    words = [machine["cpu"], *machine["instruction_sets"][-1:], f"{machine['cores']} cores"]
    # Without the marks of trade: Intel(R) is intel.
    plain = re.sub(r"\(\w+\)", "", " ".join(words).lower())
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    folder, number = results / name, 1
    while folder.exists():
        number += 1
        folder = results / f"{name}-{number}"
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(json.dumps(machine, indent=2) + "\n", encoding="utf-8")
    return folder
