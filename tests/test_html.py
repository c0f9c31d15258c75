"""Pages: Markdown in, one HTML file out."""

import base64
import re

import pytest

from iwae_tf.io import html


@pytest.mark.parametrize(
    "text",
    ["a_b_c *d* `e` [f](g) ![h](i)", "1. one & <b>two</b> | three", "- #4 \\ +5 ~6"],
)
def test_escaped_text_is_shown_letter_for_letter(tmp_path, text):
    shown = html.escape(text)
    items = f"- {shown}\n{{: .good }}\n\n{html.table(['', ''], [[shown, shown]])}"
    html.write_page(tmp_path / "p.html", text, items)
    page = (tmp_path / "p.html").read_text()
    cells = re.findall(r"<td.*?>(.*?)</td>", page)
    for found in [*cells, *re.findall('<li class="good">(.*?)</li>', page)]:
        assert html.html.unescape(found) == text and "<" not in found
    assert len(cells) == 2 and f"<title>{html.html.escape(text)}</title>" in page


@pytest.mark.parametrize("embed", [True, False])
def test_images_are_links_or_embedded(tmp_path, embed):
    (tmp_path / "a.png").write_bytes(b"picture")
    html.write_page(tmp_path / "p.html", "t", "![A](a.png)", embed_images=embed)
    (source,) = re.findall('src="(.*?)"', (tmp_path / "p.html").read_text())
    data = base64.b64encode(b"picture").decode()
    assert source == (f"data:image/png;base64,{data}" if embed else "a.png")
