//! Templates against what Jinja2 3.1 with Hugging Face's extensions answers, and what a hostile one does.

use serde_json::{Map, Value as Json, json};

use super::*;

fn conversation() -> Json {
    json!([
        {"role": "system", "content": "You're \"it\"\n"},
        {"role": "user", "content": " Hi é "},
        {"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1, "a": [1.0, null, true]}}}]},
    ])
}

fn render(source: &str) -> Result<String, ChatError> {
    let now = LocalTime::new(2026, 1, 31, 12, 0, 0).unwrap();
    let kwargs = Map::from_iter([("enable_thinking".to_owned(), json!(false))]);
    ChatTemplate::new(source)?.render(&ChatInput {
        messages: &conversation(),
        tools: None,
        add_generation_prompt: true,
        bos_token: "<s>",
        eos_token: "</s>",
        kwargs: &kwargs,
        now,
    })
}

fn check(source: &str, expected: &str) {
    assert_eq!(render(source).unwrap(), expected, "{source}");
}

#[test]
fn a_chat_reads_as_its_template_says() {
    let source = "{{ bos_token }}
{%- for message in messages %}
  {%- if message.role != 'assistant' %}
    {{- '<|' ~ message['role'] ~ '|>' + message.content | trim }}
  {%- endif %}
{%- endfor %}
{% if add_generation_prompt and not enable_thinking %}
<|assistant|>{% endif %}";
    check(source, "<s><|system|>You're \"it\"<|user|>Hi é<|assistant|>");
}

#[test]
fn values_read_as_in_python() {
    check(
        "{{ none }} {{ true }} {{ 1.0 }} {{ 1e20 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }}",
        "None True 1.0 1e+20 -4 2 3.5",
    );
    check(
        "{{ [1, 'a', none, 1.5] }}{{ {'a': \"it's\"} }}{{ (1,) }}",
        "[1, 'a', None, 1.5]{'a': \"it's\"}(1,)",
    );
    check(
        "{{ messages[2].tool_calls[0].function.arguments }}",
        "{'b': 1, 'a': [1.0, None, True]}",
    );
    check(
        "{{ 'x' ~ [1, 'a'] ~ none }}{{ [1, none]|join(',') }}",
        "x[1, 'a']None1,None",
    );
}

#[test]
fn json_reads_as_python_dumps_it() {
    check(
        "{{ messages[2].tool_calls|tojson }}",
        r#"[{"function": {"name": "f", "arguments": {"b": 1, "a": [1.0, null, true]}}}]"#,
    );
    check(
        "{{ {'b': [], 'a': {}, 'c': [1]}|tojson(indent=2) }}",
        "{\n  \"b\": [],\n  \"a\": {},\n  \"c\": [\n    1\n  ]\n}",
    );
    check(
        "{{ {'b': 1, 'a': 2}|tojson(sort_keys=true, separators=(',', ':')) }}",
        r#"{"a":2,"b":1}"#,
    );
    check(
        "{{ messages[0].content|tojson }}{{ 'é\u{2028}</'|tojson }}",
        "\"You're \\\"it\\\"\\n\"\"é\u{2028}</\"",
    );
    check("{{ 'é👍'|tojson(ensure_ascii=true) }}", r#""\u00e9\ud83d\udc4d""#);
    assert!(render("{{ nothing|tojson }}").is_err());
    assert!(render("{{ messages|map(attribute='role')|tojson }}").is_err());
}

#[test]
fn strings_have_python_s_methods() {
    check(
        "{{ ' a\u{1c}'.strip() }}{{ 'xxaxx'.strip('x') }}{{ 'a b c'.rsplit(' ', 1) }}",
        "aa['a b', 'c']",
    );
    check(
        "{{ 'a b c'.split(maxsplit=1) }}{{ ' a  b '.split() }}{{ 'a,b'.split(sep=',') }}",
        "['a', 'b c']['a', 'b']['a', 'b']",
    );
    check(
        "{{ 'abc'.startswith('b', 1) }}{{ 'abc'.endswith(('x', 'c')) }}",
        "TrueTrue",
    );
    check(
        "{{ 'a-b'.partition('-') }}{{ \"it's\".title() }}{{ '-5'.zfill(4) }}",
        "('a', '-', 'b')It'S-005",
    );
    check(
        "{{ 'a\\nb\\r\\nc'.splitlines() }}{{ 'prefix'.removeprefix('pre') }}",
        "['a', 'b', 'c']fix",
    );
    check(
        "{{ 'éa'.find('a') }}{{ 'aba'.rindex('a') }}{{ 'abcabc'.find('c', 3) }}",
        "125",
    );
    assert!(render("{{ 'a'.index('z') }}").is_err());
    assert!(render("{{ ','.join([1]) }}").is_err());
    assert!(render("{{ [1].append(2) }}").is_err());
}

#[test]
fn texts_are_formatted_and_escaped_as_in_python() {
    check("{{ '%s is %d' % ('a', 3) }}{{ '%.2f' % 3.14159 }}", "a is 33.14");
    check("{{ '<b>'|safe + '<' + 'c' }}{{ '<' + 'c' }}", "<b>&lt;c<c");
    check("{{ '<&\\'\"'|e }}", "&lt;&amp;&#39;&#34;");
}

#[test]
fn what_python_cannot_iterate_is_refused() {
    assert!(render("{% for x in none %}{% endfor %}").is_err());
    assert!(render("{% for x in 5 %}{% endfor %}").is_err());
    check(
        "{% for x in nothing %}a{% else %}b{% endfor %}{{ none is iterable }}{{ 'a' is sequence }}",
        "bFalseTrue",
    );
}

#[test]
fn loops_break_continue_and_generation_blocks_render() {
    check(
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "023",
    );
    check("{% generation %}a{% set x = 1 %}{% endgeneration %}{{ x }}", "a");
    check("{{ strftime_now('%d %b %Y') }}", "31 Jan 2026");
}

#[test]
fn a_refusal_says_why() {
    let refused = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert!(matches!(refused, ChatError::Refused(reason) if reason == "roles must alternate"));
    assert!(matches!(render("{% if %}"), Err(ChatError::Template(_))));
    assert!(matches!(render("{{ 1 / 0 }}"), Err(ChatError::Render(_))));
}

#[test]
fn a_hostile_template_ends_in_an_error() {
    let hostile = [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x.replace('a', 'aaaa') %}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set n.x = '%s%s' % (n.x, n.x) %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x|tojson }}",
        "{{ range(10000000000) }}",
        "{{ 'a' * 100000000000 }}",
        "{% include 'x' %}",
    ];
    for source in hostile {
        assert!(render(source).is_err(), "{source}");
    }
}

#[test]
fn what_is_long_is_paid_for_each_time_it_is_read() {
    for (start, step, most) in [
        ("[1] * 100000", "{% set ns.s = ns.s %}", 1000),
        // To read `ns.s` is paid for, too, by itself enough for some 260 times.
        ("'x' * 1000000", "{% set y = ns.s.find('y') %}", 200),
        ("'x' * 1000000", "{{ ns.s[-1] }}", 400),
        ("'x' * 1000000", "{{ ns.s[:1] }}", 400),
        ("'x' * 1000000", "{{ ns.s.999999 }}", 400),
        ("'x' * 1000000", "{{ {'a': 1}[ns.s] }}", 400),
        ("'x' * 1000000", "{{ {'a': 1}.get(ns.s) }}", 400),
        ("'x' * 1000000", "{{ {ns.s: 1}|length }}", 400),
        ("'x' * 1000000", "{{ 'y' in ns.s }}", 400),
        ("'x' * 1000000", "{{ ns.s in ['y'] }}", 400),
        ("'x' * 1000000", "{{ 'y' in [ns.s] }}", 400),
        ("'x' * 1000000", "{{ ns.s == ns.s }}", 400),
        ("'x' * 1000000", "{{ [ns.s] != [ns.s] }}", 400),
        ("'x' * 1000000", "{{ ns.s is eq(ns.s) }}", 400),
        ("'x' * 1000000", "{{ ns.s is in([ns.s]) }}", 400),
        ("'x' * 1000000", "{{ ns.s is lower }}", 400),
        (
            "'x' * 1000000",
            "{{ [ns.s]|select('eq', ns.s)|list|length }}",
            400,
        ),
        ("['x' * 1000000] * 2", "{{ ns.s|sort|length }}", 200),
        ("['x' * 1000000] * 2", "{{ ns.s|unique|list|length }}", 200),
        ("['x' * 1000000] * 2", "{{ ns.s|max|length }}", 200),
        ("['x' * 1000000]", "{{ ns.s.index(ns.s.0) }}", 400),
    ] {
        let times = |times: usize| {
            format!(
                "{{% set ns = namespace(s={start}) %}}{{% for i in range({times}) %}}{step}{{% endfor %}}"
            )
        };
        assert!(render(&times(5)).is_ok(), "{step}");
        assert!(render(&times(most)).is_err(), "{step}");
    }
}

#[test]
fn a_value_that_is_too_deep_or_holds_itself_is_refused() {
    let deep = |times: usize, give: &str| {
        format!(
            "{{% set n = namespace(x=[1]) %}}{{% for i in range({times}) %}}{{% set n.x = {give} %}}{{% endfor %}}"
        )
    };
    for give in [
        "[n.x]",
        "{'a': n.x}",
        "(n.x,)",
        "[n.x]|select|list",
        "[n.x]|map('list')",
        "cycler(n.x)",
    ] {
        assert!(render(&deep(50, give)).is_ok(), "{give}");
        assert!(render(&deep(90_000, give)).is_err(), "{give}");
    }
    for source in [
        "{% set a=namespace() %}{% set b=namespace() %}{% set a.a=a %}{% set b.a=b %}{{ a == b }}",
        "{% set a=namespace() %}{% set a.a=[{'b': a}] %}",
        "{% macro m(x) %}{{ m([[[[[[[[[[x]]]]]]]]]]) }}{% endmacro %}{{ m(1) }}",
        "{% for x in [1] recursive %}{{ loop([[[[[[[[x]]]]]]]]) }}{% endfor %}",
    ] {
        assert!(render(source).is_err(), "{source}");
    }
    assert!(render(&"{% set x = [x] %}".repeat(300)).is_err());
    assert!(
        render(&format!(
            "{}1{}",
            "{{ ".to_owned() + &"[".repeat(50),
            "]".repeat(50) + " }}"
        ))
        .is_ok()
    );
}

#[test]
fn a_template_that_is_too_long_is_refused() {
    for source in [
        format!("{{{{ 1{} }}}}", "+1".repeat(25_000)),
        format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}b".repeat(8_300)),
        format!("{{{{ a{} }}}}", "()".repeat(24_300)),
        "x".repeat(SOURCE_MAX + 1),
    ] {
        assert!(
            matches!(render(&source), Err(ChatError::Template(_))),
            "{}",
            &source[..20]
        );
    }
    check(&"x".repeat(SOURCE_MAX), &"x".repeat(SOURCE_MAX));
}

#[test]
fn damaged_templates_do_no_harm() {
    let source = "{%- for m in messages if m.role %}{{ '%s' % m.content|trim + ('a'|safe) }}{# c #}{%- endfor -%}{{ [1,2][::-1]|tojson(indent=1) }}";
    for seed in 0..3_000usize {
        let mut damaged: Vec<char> = source.chars().collect();
        for step in 0..1 + seed % 3 {
            let at = (seed * 7_919 + step * 104_729) % damaged.len();
            match (seed + step) % 3 {
                0 => drop(damaged.remove(at)),
                1 => damaged.insert(at, ['{', '%', '}', '\'', '(', 'é', '|', '+'][seed / 3 % 8]),
                _ => damaged.truncate(at + 1),
            }
        }
        let _ = render(&damaged.into_iter().collect::<String>());
    }
}

#[test]
fn a_template_ends_when_nobody_waits_for_it() {
    let source = "{% for a in range(1000) %}{% for b in range(1000) %}x{% endfor %}{% endfor %}";
    let template = ChatTemplate::new(source).unwrap();
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 100
    };
    let input = ChatInput {
        messages: &conversation(),
        tools: None,
        add_generation_prompt: true,
        bos_token: "",
        eos_token: "",
        kwargs: &Map::new(),
        now: LocalTime::new(2026, 1, 31, 12, 0, 0).unwrap(),
    };
    let stopped = template.render_unless(&input, &stop);
    assert!(matches!(stopped, Err(ChatError::Stopped)), "{stopped:?}");
    assert_eq!(asked.get(), 101);
}
