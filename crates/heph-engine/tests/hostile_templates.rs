//! Templates that would take all memory, all time or all of the stack: an error, or a text, within bounds.
//!
//! One test in a program of its own, since the count of allocated bytes is of the whole program. That the stack holds is
//! seen by the program itself: without it the process ends.

use heph_engine::chat::{ChatInput, ChatTemplate, LocalTime};
use peak_alloc::PeakAlloc;
use serde_json::json;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that rendering any template may take: those its fuel pays for (256 MiB), as much again while a text grows, and
/// its output.
const BYTES_MAX: usize = 600 << 20;

/// The stack of a thread as the standard library makes it.
const STACK_BYTES: usize = 2 << 20;

/// `step` done sixty times to the text, or list, `ns.s`.
fn grown(start: &str, step: &str) -> String {
    format!(
        "{{% set ns = namespace(s={start}) %}}{{% for i in range(60) %}}{{% set ns.s = {step} %}}{{% endfor %}}{{{{ ns.s|length }}}}"
    )
}

/// `step` done without end.
fn repeated(step: &str) -> String {
    format!(
        "{{% set ns = namespace(s='x' * 1000000, l=[]) %}}{{% for i in range(100000) %}}{{% for j in range(1000) %}}{step}{{% endfor %}}{{% endfor %}}"
    )
}

fn hostile() -> Vec<String> {
    let growing = [
        "ns.s|list|join(ns.s)",
        "ns.s + ns.s",
        "ns.s ~ ns.s",
        "ns.s|replace('x', 'xxxx')",
        "ns.s.join([ns.s, ns.s])",
        "ns.s.replace('x', 'xxxx')",
        "'%s%s' % (ns.s, ns.s)",
        "'{0}{0}'.format(ns.s)",
        "(ns.s|tojson) * 2",
        "ns.s.center(60000, ns.s)",
        "'\\t'.join([ns.s, ns.s]).expandtabs(60000)",
        "ns.s|indent(ns.s, true, true)",
        "'%s%s'|format(ns.s, ns.s)",
        "ns.s|string|list|string",
        "[ns.s, ns.s]|string",
    ];
    let lists = [
        "ns.s + ns.s",
        "ns.s * 8",
        "[ns.s, ns.s]",
        "{'a': ns.s, 'b': ns.s}",
        "(ns.s + ns.s)|list",
        "ns.s|batch(1)|list",
        "ns.s|map('list')|list",
    ];
    let widths = [
        "'%999999999d' % 1",
        "'%999999999d'|format(1)",
        "'{:>999999999}'.format(1)",
        "'%.999999999f' % 1.5",
        "'%*d' % (999999999, 1)",
        "'%.999999999f'|format(1.5)",
        "'{:{}}'.format(1, 999999999)",
        "'{:.999999999f}'.format(1.5)",
        "'x' * 1000000000",
        "[1] * 1000000000",
        "range(1000000000)|list",
        "'x'|center(999999999)",
        "'x'.ljust(999999999)",
        "2 ** 99999999",
    ];
    let endless = [
        "{% set y = ns.s.find('y') %}",
        "{% set y = ns.s.split('x') %}",
        "{% set y = ns.s|wordcount %}",
        "{{ 'x' * 1000000 }}",
        "{% set y = ns.s.count('y') %}",
        "{% set y = ns.s == ns.s ~ 'a' %}",
        "{% set y = messages|tojson %}",
        "{% set y %}{{ ns.s }}{% endset %}",
        "{% set ns.l = ns.l + [ns.s] %}",
        "{% set y = [ns.s]|string|wordcount %}",
    ];
    let source = |texts: &[&str], make: &dyn Fn(&str) -> String| {
        texts.iter().map(|text| make(text)).collect::<Vec<_>>()
    };
    let branches = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}b".repeat(400));
    let chains = [
        "+1",
        "~1",
        " and not 1",
        "|list",
        ".a",
        "[0]",
        "()",
        " if 1",
        "*-1",
        " or [[1]]",
    ];
    [
        source(&growing, &|step| grown("'xx'", step)),
        source(&lists, &|step| grown("[1]", step)),
        source(&widths, &|value| format!("{{{{ {value} }}}}")),
        source(&endless, &repeated),
        source(&chains, &|chain| {
            format!("{{{{ 1{} }}}}", chain.repeat(500 / chain.len().min(3)))
        }),
        vec![
            branches,
            format!("{{{{ {}1{} }}}}", "-".repeat(400), ")".repeat(3)),
            format!("{{{{ {}1 }}}}", "not ".repeat(490)),
        ],
        ["[", "(", "{'a':"]
            .iter()
            .map(|open| format!("{{{{ {}", open.repeat(499)))
            .collect(),
        ["{% if a %}", "{% for a in b %}", "{% macro m() %}", "{% set a %}"]
            .iter()
            .map(|open| open.repeat(400))
            .collect(),
    ]
    .concat()
}

fn render(source: &str) -> Option<usize> {
    let template = ChatTemplate::new(source).ok()?;
    let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]);
    let text = template.render(&ChatInput {
        messages: &messages,
        tools: None,
        add_generation_prompt: true,
        bos_token: "<s>",
        eos_token: "</s>",
        kwargs: &serde_json::Map::new(),
        now: LocalTime::new(2026, 1, 2, 3, 4, 5)?,
    });
    text.ok().map(|text| text.len())
}

#[test]
fn no_template_takes_all_memory_or_stack_or_time() {
    let work = || {
        for source in hostile() {
            MEMORY.reset_peak_usage();
            let before = MEMORY.current_usage();
            let written = render(&source);
            let taken = MEMORY.peak_usage().saturating_sub(before);
            let begin: String = source.chars().take(160).collect();
            assert!(taken <= BYTES_MAX, "{} MB: {begin}", taken >> 20);
            assert!(written.unwrap_or(0) <= 16 << 20, "{begin}");
        }
        // What counts must count.
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        assert!(render("{{ ('x' * 9000000)|length }}").is_some());
        assert!(MEMORY.peak_usage().saturating_sub(before) >= 9_000_000);
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work);
    thread.expect("a thread").join().expect("no panic");
}
