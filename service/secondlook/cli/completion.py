"""``secondlook completion``: what a shell needs to complete our command lines."""

import click

from secondlook.config.entrypoint import SectionedCommand
from secondlook.config.terminal import echo


@click.command(
    "completion",
    cls=SectionedCommand,
    examples=[
        "secondlook completion bash >> ~/.bash_completion",
        "secondlook completion zsh > ~/.zfunc/_secondlook   # fpath+=~/.zfunc in .zshrc",
        "secondlook completion fish > ~/.config/fish/completions/secondlook.fish",
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--edge", is_flag=True, help="The script of secondlook-edge instead.")
def completion_command(shell: str, edge: bool) -> None:
    """Print the completion script of SHELL: commands, options, models, formats, files.

    Save it where the shell looks for it, as below, and open a new shell. To try it in this one:
    source <(secondlook completion bash)
    """
    from click.shell_completion import get_completion_class

    from secondlook.cli import group

    program = "secondlook-edge" if edge else "secondlook"
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    made = get_completion_class(shell)
    assert made is not None
    for line in made(group, {}, program, variable).source().splitlines():
        echo(line)
