"""Manual pages as plain text: roughly what `man` shows, without layout, the same everywhere."""

import re

NO_TEXT = re.compile(r"""[.'] *(\\"|TH|ig|de|so|if|ie|el|nr|ds|ad|hy|nh|in|ta|TS|TE)|'\\"|\.\.""")
FONTS = ("B", "I", "BR", "BI", "IR", "IB", "RB", "RI", "SM", "SB")
BREAKS = ("PP", "P", "LP", "TP", "IP", "HP", "sp")
SPECIAL = {"hy": "-", "em": "—", "en": "–", "bu": "•", "co": "©", "ti": "~", "ha": "^", "rs": "\\"}
SPECIAL |= {"aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "Fo": "«", "Fc": "»"}


def plain(roff: str, script: str = ".") -> str:
    """The page without markup, and without paragraphs in which `script` matches nothing."""
    lines = []
    for line in roff.splitlines():
        if NO_TEXT.match(line):
            continue
        heading = re.match(r"[.'] *(SH|SS) *(.*)", line)
        if heading:
            line = "\n" + heading[2].strip('" ')
        elif re.match(r"[.'] *[A-Za-z]", line):
            macro, _, words = line[1:].strip().partition(" ")
            if macro in FONTS:
                # Macros that alternate fonts join words; single-font macros do not.
                line = ("" if len(macro) == 2 and "S" not in macro else " ").join(_words(words))
            elif macro in BREAKS:
                line = "\n" + (words.strip('"').split('"')[0] if macro == "IP" else "")
            else:
                continue
        lines.append(_unescaped(line).rstrip())
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return "\n\n".join(p for p in text.split("\n\n") if re.search(script, p, re.IGNORECASE)) + "\n"


def _words(words: str) -> list[str]:
    return [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', words)]


def _unescaped(line: str) -> str:
    line = re.sub(r'\\".*', "", line)
    line = re.sub(r"\\f(\[[^]]*\]|\(..|.)|\\s[+-]?\d+|\\[&|/,^cz%:]", "", line)
    line = re.sub(r"\\\((..)|\\\[([^]]*)\]", lambda m: SPECIAL.get(m[1] or m[2], ""), line)
    return re.sub(r"\\e", r"\\", re.sub(r"\\([-' ~.\"`0])", r"\1", line))
