"""Runs the checks of a script, and says how many passed."""

import os
import pathlib
import sys
import traceback


def run(client, name, checks, wanted, setup, teardown):
    """Runs `checks`, or those `wanted`, each with what `setup` returns. Exits 1 if one fails.

    Where SKEP_REACHED names a folder, a line for the table of what each client reached is left there.
    """
    failed = []
    connection = setup()
    checks = [function for function in checks if not wanted or function.__name__ in wanted]
    for function in checks:
        try:
            function(connection)
            print(f"ok      {function.__name__}", flush=True)
        except Exception:
            failed.append(function.__name__)
            print(f"FAILED  {function.__name__}", flush=True)
            traceback.print_exc()
    teardown(connection)
    passed = len(checks) - len(failed)
    print(f"{passed} of {len(checks)} checks passed")
    folder = os.environ.get("SKEP_REACHED")
    if folder:
        line = "\t".join([client, str(passed), str(len(checks)), " ".join(failed)])
        pathlib.Path(folder, name + ".tsv").write_text(line + "\n")
    sys.exit(1 if failed else 0)
