"""The few pages that a person may see: calm, readable, without scripts or anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html

STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --quiet: #5b6475; --ground: #f4f5f8; --card: #ffffff; --line: #e3e6ec; --mark: #3457d5; }
@media (prefers-color-scheme: dark) { :root { --ink: #eef0f5; --quiet: #a3abba; --ground: #14171e; --card: #1d212b; --line: #2d3340; --mark: #8fa8ff; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem; background: var(--ground); color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { width: 100%; max-width: 30rem; padding: 2.25rem 2.25rem 2rem; background: var(--card); border: 1px solid var(--line); border-radius: 0.9rem; box-shadow: 0 1px 2px rgb(0 0 0 / 4%), 0 12px 32px rgb(0 0 0 / 6%); }
svg { display: block; width: 2.5rem; height: 2.5rem; margin-bottom: 1.25rem; color: var(--mark); }
h1 { margin: 0 0 0.75rem; font-size: 1.35rem; line-height: 1.25; letter-spacing: -0.01em; }
p { margin: 0 0 0.75rem; color: var(--quiet); }
p:last-child { margin-bottom: 0; color: var(--ink); font-weight: 550; }
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

PAGE_HEADERS = {
    # This style sheet and no other, no script, nothing from elsewhere.
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'"
}

_ICON = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" '
    'aria-hidden="true"><rect x="3.5" y="5" width="17" height="15" rx="2.5"/><path d="M3.5 10h17M8 3v4M16 3v4"/>'
    '<path d="M12 13v2.6M12 17.4v.1"/></svg>'
)


def page(title: str, *paragraphs: str) -> str:
    """A page with a title and a few sentences; the last one says what to do."""
    body = "".join(f"<p>{html.escape(text)}</p>" for text in paragraphs)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{_ICON}<h1>{html.escape(title)}</h1>{body}</main></body></html>"
    )
