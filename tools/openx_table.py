"""Print the table of Open X-Embodiment records with their open questions, as Markdown for the docs.

.venv/bin/python tools/openx_table.py > build/openx.md
"""

from ideomotor.data.openx.mixtures import MIXTURES
from ideomotor.data.openx.record import Record
from ideomotor.data.openx.records import ALIASES, CONVERTED, RECORDS


def main() -> None:
    """Print records, questions and mixtures."""
    print("| dataset | robot, Hz | cameras | state | action |\n|---|---|---|---|---|")
    for record in RECORDS.values():
        print(line(record))
    print(f"\n`*`: the name goes on with `{CONVERTED}`. Cameras: primary, secondary, wrist.", end=" ")
    print(", ".join(f"`{alias}` is read as `{name}`" for alias, name in ALIASES.items()) + ".\n")
    print("| dataset | left out | way back to the raw action | open questions and choices |\n|---|---|---|---|")
    for record in RECORDS.values():
        print(more(record))
    print()
    for mixture in MIXTURES.values():
        parts = ", ".join(f"{short(part.name)} {part.weight:g}" for part in mixture.parts)
        print(f"- `{mixture.name}`: {mixture.source}; weights per {mixture.per}: {parts}.")


def line(record: Record) -> str:
    """Return what goes in and what comes out of one record."""
    body = record.embodiment
    cameras = ", ".join(f"`{record.cameras[role]}`" if role in record.cameras else "-" for role in ROLES)
    state, action = (formula.replace("observation.", "") for formula in record.formulas)
    return f"| `{short(record.name)}` | {body.robot}, {body.rate_hz:g} | {cameras} | {state} | {action} |"


ROLES = ("primary", "secondary", "wrist")


def more(record: Record) -> str:
    """Return what is not known of one record."""
    said = [f"**{question}**" for question in record.questions] + list(record.notes)
    back = record.restores if record.restore is None else f"yes{', for ' + record.restores if record.restores else ''}"
    return f"| `{short(record.name)}` | {record.drops or 'nothing'} | {back} | {'; '.join(said) or '-'} |"


def short(name: str) -> str:
    """Return a name without its long end."""
    return name.removesuffix(CONVERTED) + ("*" if name.endswith(CONVERTED) else "")


if __name__ == "__main__":
    main()
