"""Whether a value may be a secret, so that it is not published where nobody asked for that in so many words.

Names are those that applications give their secrets in the environment; values are of the forms by which GitHub, GitLab
and others find secrets in repositories. What is found costs its entry of Meta, so a doubt counts as a finding.
"""

from __future__ import annotations

import re
from typing import Final

_NAMES: Final = re.compile(
    r"passw|passphrase|secret|token|credential|private|api_?key|access_?key|authorization|connection_?string"
    r"|(?:^|[^a-z0-9])(?:pass|pwd|key|keys|auth|oauth|creds?|dsn|jwt|bearer|salt|pem|cert|certs|cookie|pin|otp)(?:$|[^a-z0-9])"
)
_VALUES: Final = re.compile(
    r"-----BEGIN |PRIVATE KEY|\bBearer |\bBasic [A-Za-z0-9+/=]{8}"
    r"|[a-z][a-z0-9+.-]*://[^/\s@]*:[^/\s@]*@"
    r"|\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\."
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[A-Za-z0-9_-]{30}|\bya29\.|\bGOCSPX-"
    r"|\bgh[opsur]_[A-Za-z0-9]{20}|\bgithub_pat_|\bglpat-|\bxox[a-z]-|\bhv[sb]\.|\bnpm_[A-Za-z0-9]{20}|\bpypi-"
    r"|\bsk[-_][A-Za-z0-9_-]{16}|\b[sr]k_(?:live|test)_|\bSG\.[A-Za-z0-9_-]{16}|\bdop_v1_"
    r"|(?i:pass(?:word|wd)|secret|token|private_key|api_?key|accountkey)[\"']?\s*[:=]"
)
_RANDOM: Final = re.compile(r"(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])(?=[^0-9]*[0-9])[A-Za-z0-9+/_=-]{32,}")
"""As random bytes look in Base64. A commit's hash, in small letters, is none."""
_LOOKED_AT: Final = 4096
"""Characters of a value."""


def looks_secret(name: str, value: str) -> bool:
    """Whether a variable's name or value is of a kind that is kept secret elsewhere."""
    part = value[:_LOOKED_AT]
    return bool(_NAMES.search(name.lower()) or _VALUES.search(part) or _RANDOM.fullmatch(part.strip()))
