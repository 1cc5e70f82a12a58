"""What a script of the lab claims, and how it begins and ends: counted, told, and an exit code for `check`."""

PASSED, FAILED = [], []


def claim(name, holds, detail=""):
    """Counts a claim that holds or does not."""
    (PASSED if holds else FAILED).append(name)
    print(f"{'ok    ' if holds else 'FAILED'} {name}  {detail}", flush=True)


def no_start(what, missing, program):
    """The exit code of a script that is not to begin: it was only asked whether it can, or something is missing. `None` else."""
    if missing:
        print(missing)
        return 1 if what == "--can-run" else 2
    if what == "--can-run":
        return 0
    if not program.exists():
        print(f"there is no {program}; build it with cargo build --profile tests --workspace --all-targets")
        return 2
    return None


def verdict(usage):
    """The exit code at the end. Where nothing was claimed nothing was asked for that the script knows: it says what that is."""
    if not PASSED + FAILED:
        print(usage)
        return 2
    print(f"{len(PASSED)} passed, {len(FAILED)} failed")
    return 1 if FAILED else 0
