#!/usr/bin/env python3
"""Writes `docs/api.md` from the comments of `proto/`.

    python3 tools/api_docs.py            writes it
    python3 tools/api_docs.py --check    fails where it is not what would be written

For readers on a code forge, where a page of Markdown can be read, linked to and searched as it is.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from typing import Any, Iterator

import setup

PAGE = setup.ROOT / "docs" / "api.md"
PACKAGE = "lattice.control.v1"

# Numbers in a path of source information, from `descriptor.proto`.
MESSAGES, ENUMS, SERVICES, MEMBERS, NESTED_MESSAGES, ONEOFS = 4, 5, 6, 2, 3, 8

INTRODUCTION = f"""\
# The API, {PACKAGE}

*Written by `make api-docs` from [`proto/`](../proto/lattice/control/v1). A change there is a change here.*

Each service with its calls, each call with its request and its answer; then the messages and enums that several share. What every
write promises stands at [LinkDefinitionService](#linkdefinitionservice), what every watch promises at [WatchService](#watchservice).

Errors have reasons ([ErrorReason](#errorreason)), and [errors.md](errors.md) says what to do about each. [http.md](http.md) tells how the
same calls are made as HTTP/JSON. A field that is left out has the default of its type: empty, 0 or false. Rules are those of
[protovalidate](https://protovalidate.com), by which clients can check a request before they send it; where the gateway refuses more,
the text says so. They do not bind answers: hosts may have stored anything.
"""


class Page:
    """The lines of the page."""

    def __init__(self, files: list[dict[str, Any]]) -> None:
        self.files = files
        self.lines = [INTRODUCTION]
        self.names = {f".{PACKAGE}.{name}" for file in files for name, _, _ in declared(file)}

    def write(self) -> str:
        services = [(file, index, service) for file in self.files for index, service in numbered(file, "service")]
        for _, _, service in services:
            methods = ", ".join(link(method["name"]) for method in service["method"])
            self.lines.append(f"* {link(service['name'])}: {methods}")
        self.lines += ["* [Messages](#messages)", "* [Enums](#enums)", ""]
        shown = set()
        for file, index, service in services:
            self.section(2, service["name"], comment(file, [SERVICES, index]))
            for place, method in enumerate(service["method"]):
                self.method(method, comment(file, [SERVICES, index, MEMBERS, place]))
                for name in (method["inputType"], method["outputType"]):
                    shown.add(name)
                    self.message(*self.found(name), level=4)
        for title, is_enum in [("Messages", False), ("Enums", True)]:
            self.section(2, title, "")
            for file in self.files:
                for name, path, of in declared(file):
                    if is_enum == ("value" in of) and f".{PACKAGE}.{name}" not in shown:
                        (self.enum if is_enum else self.message)(file, name, path, of, level=3)
        return re.sub(r"\n{3,}", "\n\n", "\n".join(self.lines)).rstrip() + "\n"

    def found(self, full_name: str) -> tuple[dict[str, Any], str, list[int], dict[str, Any]]:
        for file in self.files:
            for name, path, of in declared(file):
                if f".{PACKAGE}.{name}" == full_name:
                    return file, name, path, of
        raise KeyError(full_name)

    def section(self, level: int, title: str, text: str) -> None:
        # Headings within a comment stand below the one of what it is about.
        text = re.sub(r"^#+", lambda marks: "#" * (level + len(marks.group()) - 1), text, flags=re.MULTILINE)
        self.lines += ["", f"{'#' * level} {title}", "", text, ""]

    def method(self, method: dict[str, Any], text: str) -> None:
        self.section(3, method["name"], text)
        asked, answered = self.type_of(method["inputType"]), self.type_of(method["outputType"])
        asked = f"stream of {asked}" if method.get("clientStreaming") else asked
        answered = f"stream of {answered}" if method.get("serverStreaming") else answered
        self.lines += [f"{asked} → {answered}", ""]
        self.lines += [f"* `{route}`" for route in routes(method)]

    def message(self, file: dict[str, Any], name: str, path: list[int], message: dict[str, Any], level: int) -> None:
        self.section(level, name, comment(file, path))
        oneofs = message.get("oneofDecl", [])
        rows = []
        for place, field in enumerate(message.get("field", [])):
            notes = [comment(file, [*path, MEMBERS, place])]
            rules = rule(rules_of(field, "field"))
            if "oneofIndex" in field and not field.get("proto3Optional"):
                oneof = oneofs[field["oneofIndex"]]
                is_required = rules_of(oneof, "oneof").get("required")
                notes.insert(0, f"*{'Exactly' if is_required else 'At most'} one of `{oneof['name']}`.*")
            rows.append((f"`{field['name']}`", self.type_of_field(message, field), " ".join(notes), rules))
        has_rules = any(rules for *_, rules in rows)
        self.table(["field", "type", ""] + ["rule"] * has_rules, [row if has_rules else row[:3] for row in rows])

    def enum(self, file: dict[str, Any], name: str, path: list[int], enum: dict[str, Any], level: int) -> None:
        self.section(level, name, comment(file, path))
        values = enumerate(enum["value"])
        rows = [
            (f"`{value['name']}`", str(value.get("number", 0)), comment(file, [*path, MEMBERS, place]))
            for place, value in values
        ]
        self.table(["value", "number", ""], rows)

    def table(self, head: list[str], rows: list[tuple[str, ...]]) -> None:
        if not rows:
            return
        self.lines += [row_text(head), "|---" * len(head) + "|", *(row_text(row) for row in rows), ""]

    def type_of_field(self, message: dict[str, Any], field: dict[str, Any]) -> str:
        for nested in message.get("nestedType", []):
            if nested.get("options", {}).get("mapEntry") and field.get("typeName", "").endswith(f".{nested['name']}"):
                key, value = (self.type_of_field(nested, part) for part in nested["field"])
                return f"map of {key} to {value}"
        of = self.type_of(field["typeName"]) if "typeName" in field else field["type"].removeprefix("TYPE_").lower()
        if field["label"] == "LABEL_REPEATED":
            return f"repeated {of}"
        return f"optional {of}" if field.get("proto3Optional") else of

    def type_of(self, full_name: str) -> str:
        if full_name in self.names:
            return link(full_name.removeprefix(f".{PACKAGE}."))
        return f"`{full_name.lstrip('.')}`"


def declared(file: dict[str, Any]) -> Iterator[tuple[str, list[int], dict[str, Any]]]:
    """Every message and enum, by its name within the package and its path in the file."""

    def within(message: dict[str, Any], name: str, path: list[int]) -> Iterator[tuple[str, list[int], dict[str, Any]]]:
        if message.get("options", {}).get("mapEntry"):
            return
        yield name, path, message
        for index, nested in numbered(message, "nestedType"):
            yield from within(nested, f"{name}.{nested['name']}", [*path, NESTED_MESSAGES, index])

    for index, message in numbered(file, "messageType"):
        yield from within(message, message["name"], [MESSAGES, index])
    for index, enum in numbered(file, "enumType"):
        yield enum["name"], [ENUMS, index], enum


def numbered(of: dict[str, Any], part: str) -> Iterator[tuple[int, dict[str, Any]]]:
    return iter(enumerate(of.get(part, [])))


def comment(file: dict[str, Any], path: list[int]) -> str:
    for location in file["sourceCodeInfo"]["location"]:
        if location.get("path") == path:
            lines = location.get("leadingComments", "").split("\n")
            return "\n".join(line.removeprefix(" ") for line in lines).strip()
    return ""


def routes(method: dict[str, Any]) -> Iterator[str]:
    http = method.get("options", {}).get("[google.api.http]")
    for binding in [http, *http.get("additionalBindings", [])] if http else []:
        [(verb, path)] = [(key, binding[key]) for key in ("get", "put", "post", "delete") if key in binding]
        yield f"{verb.upper()} {path}"


def rules_of(part: dict[str, Any], kind: str) -> dict[str, Any]:
    return part.get("options", {}).get(f"[buf.validate.{kind}]", {})


def rule(rules: dict[str, Any]) -> str:
    """A rule in short, as it is written in the proto: `max_items: 64`, `items.pattern: ^…$`."""

    def parts(of: Any, path: list[str]) -> Iterator[str]:
        if isinstance(of, dict) and set(of) - {"seconds"}:
            for name, inner in of.items():
                # The type is told beside it.
                is_type = name in ("string", "repeated", "map", "enum", "bool", "int32", "uint32", "uint64", "duration")
                yield from parts(inner, path if is_type else [*path, snake_case(name)])
        else:
            value = f"{of.get('seconds', 0)}s" if isinstance(of, dict) else of if isinstance(of, str) else json.dumps(of)
            yield ".".join(path) if of is True and path != ["const"] else f"{'.'.join(path)}: {value}"

    return "<br>".join(f"`{part}`" for part in parts(rules, [])) if rules else ""


def snake_case(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter.group().lower()}", name)


def link(name: str) -> str:
    return f"[{name}](#{name.lower().replace('.', '')})"


def row_text(row: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cell_text(cell) for cell in row)} |"


def cell_text(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def contract() -> list[dict[str, Any]]:
    built = subprocess.run([setup.buf(), "build", "--output", "-#format=json"], cwd=setup.ROOT, stdout=subprocess.PIPE)
    if built.returncode != 0:
        raise setup.SetupError("buf refused proto/ (its own words are above).")
    return [file for file in json.loads(built.stdout)["file"] if file.get("package") == PACKAGE]


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes docs/api.md from the comments of proto/.")
    parser.add_argument("--check", action="store_true", help="fail where the page is not what would be written")
    args = parser.parse_args()
    try:
        setup.TOOLS.mkdir(exist_ok=True)
        page = Page(contract()).write()
    except setup.SetupError as error:
        sys.exit(f"api-docs: error: {error}")
    if not args.check:
        PAGE.write_text(page)
    elif not PAGE.exists() or PAGE.read_text() != page:
        sys.exit("api-docs: error: docs/api.md is not what proto/ says. Run: make api-docs")


if __name__ == "__main__":
    main()
