//! Templates of the common formats, in the fewest words that write them.

use super::*;

/// Llama 3: a header, the text and an end for each message.
const LLAMA3: &str = "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m['content'] | trim }}<|eot_id|>{% endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

/// ChatML.
const CHATML: &str = "{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}";

/// Llama 2: turns in brackets, the system's text inside the first; roles must alternate.
const LLAMA2: &str = "{% if messages[0].role == 'system' %}
{% set rest = messages[1:] %}{% set system = '<<SYS>>\\n' ~ messages[0].content ~ '\\n<</SYS>>\\n\\n' %}
{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}
{% for m in rest %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{% if m.role == 'user' %}
{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' }}
{%- else %}
{{ ' ' + m.content.strip() + ' ' + eos_token }}
{%- endif %}
{% endfor %}";

/// BitNet b1.58 2B4T: names and colons.
const BITNET: &str = "{% for m in messages %}{% set text = m['role'] | capitalize + ': ' + m['content'] | trim + '<|eot_id|>' %}
{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}
{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";

fn conversation() -> Vec<Message> {
    vec![
        Message::new(Role::System, "Be kind."),
        Message::new(Role::User, " Hi 日本 "),
        Message::new(Role::Assistant, " Hello."),
        Message::new(Role::User, "Bye"),
    ]
}

fn render(source: &str, messages: &[Message]) -> Result<String> {
    Template::new(source, "<s>", "</s>")?.render(messages)
}

#[test]
fn the_common_formats_are_written_as_their_models_read_them() {
    let formats = [
        (
            LLAMA3,
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n\
             Hi 日本<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            CHATML,
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n Hi 日本 <|im_end|>\n\
             <|im_start|>assistant\n Hello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            LLAMA2,
            "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi 日本 [/INST] Hello. </s><s>[INST] Bye [/INST]",
        ),
        (
            BITNET,
            "<s>System: Be kind.<|eot_id|>User: Hi 日本<|eot_id|>Assistant: Hello.<|eot_id|>User: Bye<|eot_id|>Assistant: ",
        ),
    ];
    for (source, expected) in formats {
        assert_eq!(render(source, &conversation()).unwrap(), expected);
    }
}

#[test]
fn what_a_template_objects_to_is_one_line() {
    let mut twice = conversation();
    twice.push(twice[3].clone());
    let error = render(LLAMA2, &twice).unwrap_err().to_string();
    assert!(error.contains("roles must alternate"), "{error}");
    for (source, words) in [
        ("line one\n{% if %}", "line 2"),
        ("{{ nowhere.deeper }}", "line 1"),
        ("{{ messages | no_such_filter }}", "no_such_filter"),
        ("{% include 'file' %}", "chat template"),
    ] {
        let error = render(source, &conversation()).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_template_that_would_run_for_ever_ends_in_an_error() {
    let source =
        "{% for i in range(10000) %}{% for j in range(10000) %}{{ i * j }}{% endfor %}{% endfor %}";
    let error = render(source, &[]).unwrap_err().to_string();
    assert!(error.contains("fuel"), "{error}");
}

#[test]
fn dates_python_methods_and_tags_for_training_work() {
    let year = jiff::ZonedDateTime::now().year().to_string();
    for (source, expected) in [
        ("{{ strftime_now('%Y') }}", year.as_str()),
        ("{{ messages[0].content.split(' ')[-1].upper() }}", "KIND."),
        (
            "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
            "system",
        ),
        ("{% generation %}a{%- endgeneration -%} b", "ab"),
        (
            "{% if tools is none and add_generation_prompt %}none{% endif %}",
            "none",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "4",
        ),
    ] {
        assert_eq!(render(source, &conversation()).unwrap(), expected);
    }
    let error = render("{{ strftime_now('%') }}", &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("strftime_now"), "{error}");
}
