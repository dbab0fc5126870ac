"""Completion of `wvq` in bash and zsh: a script with every command, its options, and the words that they take."""

from collections.abc import Mapping

from .declarations import declared
from .listing import listed_options

SHELLS = ("bash", "zsh")

_SCRIPT = """\
# Completion of wvq in {shell}: eval "$(wvq completion {shell})"
{begin}_wvq() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
    local command="${{COMP_WORDS[1]}}" words=""
    COMPREPLY=()
    if [ "$before" = "=" ]; then  # bash takes "=" for a word
        before="${{COMP_WORDS[COMP_CWORD-2]}}"
    elif [ "$word" = "=" ]; then
        word=""
    fi
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$word"))
        return
    fi
    case "$command" in
{groups}    esac
    case "$command $before" in
{values}    esac
    if [ -z "$words" ]; then
        case "$word" in
            -*) case "$command" in
{options}                esac ;;
            *) COMPREPLY=($(compgen -f -- "$word")); return ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o filenames -F _wvq wvq
"""


def completion_script(shell: str, configurations: Mapping[str, str]) -> str:
    """What `eval` makes a completion of, in a shell of `SHELLS`.

    Args:
        shell: whose.
        configurations: of each command, as `declared` takes them; "group command" for those of two words.
    """
    options, values, groups = "", "", {}
    for command, path in configurations.items():
        group, _, name = command.partition(" ")
        if name:
            groups.setdefault(group, []).append(name)
        flags = ["--config", "--help", "--help-all"]
        for option in listed_options(declared(path)):
            if not (option.is_group or option.required):
                flags.append(option.flag)
                if option.choices:
                    values += f'        "{command} {option.flag}") words="{" ".join(option.choices)}" ;;\n'
        options += f'                "{command}") words="{" ".join(flags)}" ;;\n'
    known = dict.fromkeys(command.partition(" ")[0] for command in configurations)
    return _SCRIPT.format(
        shell=shell,
        begin="autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "",
        commands=" ".join([*known, "completion"]),
        groups="".join(_of_two_words(group, names) for group, names in {**groups, "completion": SHELLS}.items()),
        values=values,
        options=options,
    )


def _of_two_words(group: str, names: tuple[str, ...] | list[str]) -> str:
    listed = " ".join(names)
    return (
        f'        {group})\n            if [ "$COMP_CWORD" -eq 2 ]; then\n'
        f'                COMPREPLY=($(compgen -W "{listed}" -- "$word"))\n                return\n            fi\n'
        f'            command="{group} ${{COMP_WORDS[2]}}" ;;\n'
    )
