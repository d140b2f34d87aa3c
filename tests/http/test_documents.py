"""GET documents and explanations: entity tags, pages, percent-encoding."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.http.harness import Answer, Server

SPACE = "/v1/spaces/shop/documents"


async def filled(server: Server, token: str, count: int, size: int = 10) -> None:
    for first in range(0, count, 50):
        operations: list[list[Any]] = []
        for number in range(first, min(first + 50, count)):
            document = ["orders" if number % 2 else "carts", f"{number:04}"]
            operations += [["create", *document], ["reg.set", *document, "text", "x" * size]]
        assert (await server.change(token, "shop", *operations)).json["outcome"] == "applied"


async def all_pages(server: Server, token: str, target: str) -> list[Answer]:
    pages = [await server.ask("GET", target, token)]
    while "next" in pages[-1].json:
        link = pages[-1].header("Link") or ""
        assert link.endswith('>; rel="next"')
        pages.append(await server.ask("GET", link[1:].partition(">")[0], token))
        assert len(pages) < 1000
    assert pages[-1].header("Link") is None
    return pages


@pytest.mark.parametrize("limit", [1, 7, 15, 16, 17, 100, 120, 1000])
@pytest.mark.parametrize("collection", ["", "/orders"])
async def test_pages_together_are_what_one_page_would_be(server: Server, limit: int, collection: str) -> None:
    token = server.token(any="writer")
    await filled(server, token, 120)
    whole = (await server.ask("GET", f"{SPACE}{collection}?limit=1000", token)).json
    assert "next" not in whole and len(whole["documents"]) == (60 if collection else 120)
    pages = await all_pages(server, token, f"{SPACE}{collection}?limit={limit}")
    assert [document for page in pages for document in page.json["documents"]] == whole["documents"]
    assert all(0 < len(page.json["documents"]) <= limit for page in pages)
    assert all(page.json["position"] == whole["position"] == page.header("Position") for page in pages)


async def test_documents_come_in_order_of_collection_and_id(server: Server) -> None:
    token = server.token(any="writer")
    await filled(server, token, 40)
    documents = (await server.ask("GET", SPACE, token)).json["documents"]
    names = [(document["collection"], document["id"]) for document in documents]
    assert names == sorted(names) and len(names) == 40


async def test_a_page_ends_by_bytes_too(server: Server) -> None:
    token = server.token(any="writer")
    for number in range(40):
        document = ["orders", f"{number:04}"]
        await server.change(token, "shop", ["create", *document], ["reg.set", *document, "text", "x" * 60_000])
    pages = await all_pages(server, token, f"{SPACE}?limit=1000")
    assert len(pages) == 3 and sum(len(page.json["documents"]) for page in pages) == 40
    assert all(len(page.body) < 1_200_000 for page in pages)


async def test_deleted_documents_are_not_there(server: Server) -> None:
    token = server.token(any="writer")
    await filled(server, token, 4)
    await server.change(token, "shop", ["delete", "orders", "0001"])
    assert (await server.ask("GET", f"{SPACE}/orders/0001", token)).problem == "not-found"
    left = (await server.ask("GET", f"{SPACE}/orders", token)).json["documents"]
    assert [document["id"] for document in left] == ["0003"]
    made = await server.change(token, "shop", ["create", "orders", "0001"])
    again = await server.ask("GET", f"{SPACE}/orders/0001", token)
    assert again.json["rev"] == made.json["seq"] and again.json["fields"] == {}


async def test_an_absent_document_space_or_field_is_not_found(server: Server) -> None:
    token = server.token(any="writer")
    assert (await server.ask("GET", SPACE, token)).problem == "not-found"
    assert (await server.ask("GET", f"{SPACE}/a/b", token)).problem == "not-found"
    await filled(server, token, 2)
    absent = await server.ask("GET", f"{SPACE}/a/b", token)
    assert absent.problem == "not-found" and absent.header("Position")
    assert (await server.ask("GET", f"{SPACE}/nothing", token)).json["documents"] == []
    assert (await server.ask("GET", "/v1/spaces/shop/explain/a/b", token)).problem == "not-found"
    assert (await server.ask("GET", "/v1/spaces/shop/explain/orders/0001/nofield", token)).problem == "not-found"


async def test_an_entity_tag_saves_the_body_until_the_document_changes(server: Server) -> None:
    token = server.token(any="writer")
    await filled(server, token, 2)
    tag = (await server.ask("GET", f"{SPACE}/orders/0001", token)).header("ETag") or ""
    for given in (tag, f"W/{tag}", f'"x", {tag}', f'{tag},"y"', "*"):
        known = await server.ask("GET", f"{SPACE}/orders/0001", token, if_none_match=given)
        assert known.status == 304 and known.header("ETag") == tag and known.header("Cache-Control")
    assert (await server.ask("GET", f"{SPACE}/orders/0001", token, if_none_match='"x"')).status == 200
    await server.change(token, "shop", ["reg.set", "carts", "0000", "text", "other"])
    assert (await server.ask("GET", f"{SPACE}/orders/0001", token, if_none_match=tag)).status == 304
    await server.change(token, "shop", ["reg.set", "orders", "0001", "text", "new"])
    changed = await server.ask("GET", f"{SPACE}/orders/0001", token, if_none_match=tag)
    assert changed.status == 200 and changed.header("ETag") != tag


async def test_the_tag_of_a_list_is_the_position_of_its_space(server: Server) -> None:
    token = server.token(any="writer")
    await filled(server, token, 2)
    page = await server.ask("GET", SPACE, token)
    assert page.header("ETag") == f'"{page.json["position"]}"'
    assert (await server.ask("GET", SPACE, token, if_none_match=page.header("ETag") or "")).status == 304
    await server.change(token, "shop", ["create", "orders", "another"])
    assert (await server.ask("GET", SPACE, token, if_none_match=page.header("ETag") or "")).status == 200


async def test_names_of_any_text_are_percent_encoded(server: Server) -> None:
    token = server.token(any="writer")
    for collection, document in (("a/b", "c d"), ("ä", "%2F"), ("?#", "..")):
        await server.change(token, "shop", ["create", collection, document])
        target = f"{SPACE}/{quote(collection, safe='')}/{quote(document, safe='')}"
        found = await server.ask("GET", target, token)
        assert (found.json["collection"], found.json["id"]) == (collection, document)


@pytest.mark.parametrize("name", ["%00", "%FF", "x" * 161, ""])
async def test_a_wrong_name_is_named(server: Server, name: str) -> None:
    answer = await server.ask("GET", f"{SPACE}/{name}/1", server.token(any="writer"))
    assert answer.problem == "malformed-request"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=", "limit=1&limit=2", "afer=x", "limit=%31%"]
)
async def test_a_wrong_query_is_refused(server: Server, query: str) -> None:
    assert (await server.ask("GET", f"{SPACE}?{query}", server.token(any="reader"))).problem == "malformed-request"


@pytest.mark.parametrize(
    "cursor", ["", "x", "!", "W10", "WyJhIiwiYiJd=", "WyJhIl0", "WzEsMl0", "bnVsbA", "a" * 1025, "é"]
)
async def test_a_cursor_that_is_not_ours_is_refused(server: Server, cursor: str) -> None:
    target = f"{SPACE}/orders?after={quote(cursor)}"
    assert (await server.ask("GET", target, server.token(any="reader"))).problem == "malformed-request"


async def test_an_explanation_tells_the_winner_and_why(server: Server) -> None:
    token = server.token(any="writer")
    base = (await server.change(token, "shop", ["create", "orders", "1"])).json["position"]
    await server.change(token, "shop", ["reg.set", "orders", "1", "$text", "a"], query=f"?base={base}")
    other = server.token("43", any="writer")
    await server.change(other, "shop", ["reg.set", "orders", "1", "$text", {"$b": "AA"}], query=f"?base={base}")
    answer = await server.ask("GET", "/v1/spaces/shop/explain/orders/1/$text", token)
    field = answer.json["fields"]["$text"]
    assert field["value"] == {"$b": "AA"} and field["winner"]["seq"] == 3 and "seq 2" in field["sentence"]
    whole = await server.ask("GET", "/v1/spaces/shop/explain/orders/1", token)
    assert "refused" not in whole.json
    assert [change["seq"] for change in whole.json["changes"]] == [3, 2, 1]


async def test_only_an_owner_is_told_what_was_refused(server: Server) -> None:
    writer, owner = server.token(any="writer"), server.token("43", any="owner")
    await server.change(writer, "shop", ["create", "orders", "1"])
    await server.change(writer, "shop", ["reg.set", "orders", "1", "a", "secret"], ["mv.set", "orders", "1", "a", 1])
    target = "/v1/spaces/shop/explain/orders/1"
    assert "secret" not in (await server.ask("GET", target, writer)).body.decode()
    (letter,) = (await server.ask("GET", target, owner)).json["refused"]
    assert letter["kind"] == "change" and letter["payload"][0][4] == "secret"
