"""The command line as a test calls it: within its own process."""

from sparsegrad.cli import main as cli


def run(capsys, *arguments):
    """Run a command; return its exit status, what it printed, and what it said on stderr."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        status = leaving.code
    out, err = capsys.readouterr()
    return status, out, err
