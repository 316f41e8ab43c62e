# SPDX-License-Identifier: Apache-2.0
"""Shows what a data folder holds: on the terminal, as JSON, and as an HTML page with a sample of rows.

    critic-r1 data inspect runs/data --html look.html

All three show the numbers of figures(). Questions and responses are read from records.jsonl.
"""

from contextlib import closing
from pathlib import Path

from critic_r1_verl import foreign
from critic_r1_verl.data_folder import read_manifest
from data_prep.inspection.display import print_tables, tables
from data_prep.inspection.figures import figures, read_facts
from data_prep.inspection.page import write_page
from data_prep.stored_records import open_records


def inspect(folder: Path, *, html: Path | None = None, as_json: bool = False, seed: int = 0) -> None:
    """Print the figures of a data folder and write the page to the file html; seed draws its sample. ValueError names what is bad."""
    manifest = read_manifest(folder)
    with closing(open_records(folder)) as records:
        facts = list(read_facts(folder, records))
        found = figures(facts, manifest)
        if as_json:
            foreign.say_json(found)
        else:
            print_tables(tables(found))
        if html:
            write_page(folder, html, found, facts, records, seed)
