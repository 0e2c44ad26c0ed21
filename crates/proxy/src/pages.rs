//! What people see in a browser when there is nothing to see.

use dormouse_store::SandboxId;
use http::StatusCode;

/// A page with one thing to say.
pub(crate) struct Page<'a> {
    pub(crate) title: &'a str,
    pub(crate) text: &'a str,
    pub(crate) id: &'a SandboxId,
    pub(crate) status: StatusCode,
}

// No doctype: clients recognise the page by its first bytes, `<html` (contract 4.5).
const STYLE: &str = "\
:root{color-scheme:light dark;--back:#f6f4f0;--card:#fff;--text:#26221c;--soft:#736b5f;--line:#e6e1d8;--mark:#b4662a}\
@media(prefers-color-scheme:dark){:root{--back:#171513;--card:#211e1b;--text:#ece7df;--soft:#a39a8d;--line:#37322c;--mark:#e0995c}}\
*{box-sizing:border-box}\
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:24px;background:var(--back);color:var(--text);\
font:16px/1.55 system-ui,-apple-system,\"Segoe UI\",Roboto,sans-serif}\
main{width:100%;max-width:34rem;padding:40px;background:var(--card);border:1px solid var(--line);border-radius:16px}\
svg{display:block;width:44px;height:44px;margin-bottom:20px;fill:none;stroke:var(--mark);stroke-width:1.6;stroke-linecap:round;stroke-linejoin:round}\
h1{margin:0 0 8px;font-size:1.5rem;line-height:1.25;letter-spacing:-.01em}\
p{margin:0 0 24px;overflow-wrap:anywhere}\
dl{display:grid;grid-template-columns:auto 1fr;gap:4px 16px;margin:0;padding-top:20px;border-top:1px solid var(--line);font-size:.875rem;color:var(--soft)}\
dt,dd{margin:0}dd{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}";

// The moon, for something that sleeps.
const MOON: &str = "<svg viewBox=\"0 0 24 24\" aria-hidden=\"true\"><path d=\"M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z\"/>\
<path d=\"M15 4h4l-4 5h4\"/></svg>";

/// The page as HTML.
pub(crate) fn render(page: &Page<'_>) -> String {
    format!(
        "<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
<meta name=\"robots\" content=\"noindex\"><title>{title}</title><style>{STYLE}</style></head>\
<body><main>{MOON}<h1>{title}</h1><p>{text}</p><dl><dt>Sandbox</dt><dd>{id}</dd><dt>Status</dt><dd>{status}</dd></dl></main></body></html>",
        title = escape(page.title),
        text = escape(page.text),
        id = page.id,
        status = page.status.as_u16(),
    )
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_become_markup() {
        let page = render(&Page {
            title: "T",
            text: "<script>alert(\"&\")</script>",
            id: &"i1".parse().unwrap(),
            status: StatusCode::CONFLICT,
        });
        assert!(page.contains("&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;"));
        assert!(page.starts_with("<html") && page.ends_with("</html>"));
    }
}
