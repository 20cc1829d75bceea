"""Pages that are one file, open anywhere and ask nothing of the network."""

from __future__ import annotations

import jinja2


def page_environment(package: str) -> jinja2.Environment:
    """Templates of a package, in its folder `templates`, beside `page_style.css.jinja`, which all pages share.

    Texts and paths of data are untrusted: everything is escaped.
    """
    own = jinja2.PackageLoader(package, "templates")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([own, jinja2.PackageLoader("llave_hf.runtime", ".")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    return environment
