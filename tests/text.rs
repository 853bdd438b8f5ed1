//! Tokenizers and chat templates against the figures of `tools/reference/text_fixtures.py`.

#[path = "common/not_run.rs"]
mod not_run;

use std::path::PathBuf;

use graftling::formats::hugging_face;
use graftling::formats::{GgufTokenizer, ModelFiles, TextSource, TokenizerSource};
use graftling::text::{ChatTemplate, Message, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

fn fixture(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn source(tokenizer: TokenizerSource) -> TextSource {
    TextSource::of(tokenizer)
}

fn byte_level(pre: &str) -> GgufTokenizer {
    let vocabulary = &fixture("vocabularies.json")["byte_level"];
    GgufTokenizer {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        tokens: strings(&vocabulary["tokens"]),
        merges: strings(&vocabulary["merges"]),
        token_types: ids(&vocabulary["token_types"]),
        bos_token_id: Some(0),
        eos_token_id: Some(2),
        ..GgufTokenizer::default()
    }
}

fn sentence_piece() -> GgufTokenizer {
    let vocabulary = &fixture("vocabularies.json")["sentence_piece"];
    GgufTokenizer {
        model: "llama".into(),
        tokens: strings(&vocabulary["tokens"]),
        scores: vocabulary["scores"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect(),
        token_types: ids(&vocabulary["token_types"]),
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        unknown_token_id: Some(0),
        ..GgufTokenizer::default()
    }
}

fn from_gguf(gguf: GgufTokenizer) -> Tokenizer {
    let (bos, eos) = (gguf.bos_token_id, gguf.eos_token_id);
    let source = source(TokenizerSource::Gguf(gguf));
    Tokenizer::from_source(&TextSource { bos_token_id: bos, eos_token_ids: eos.into_iter().collect(), ..source }).unwrap()
}

/// `tests/fixtures` holds the vocabulary of no real model. Where one is at hand, this names its GGUF file.
fn smollm2() -> Option<TextSource> {
    Some(ModelFiles::open(not_run::smollm2()?.to_str().unwrap()).unwrap().text)
}

#[test]
fn each_pre_tokenizer_gives_the_ids_of_its_family() {
    let vocabulary = &fixture("vocabularies.json")["byte_level"];
    for (pre, expected) in vocabulary["ids"].as_object().unwrap() {
        let tokenizer = from_gguf(byte_level(pre));
        for (text, expected) in strings(&vocabulary["texts"]).iter().zip(expected.as_array().unwrap()) {
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(expected), "{pre}: {text:?}");
        }
    }
}

#[test]
fn byte_level_text_survives_encoding() {
    for pre in ["gpt-2", "llama-bpe", "smollm"] {
        let tokenizer = from_gguf(byte_level(pre));
        for text in strings(&fixture("vocabularies.json")["byte_level"]["texts"]) {
            assert_eq!(tokenizer.decode(&tokenizer.encode(&text, false).unwrap(), false).unwrap(), text, "{pre}");
        }
    }
}

#[test]
fn sentence_piece_gives_the_ids_of_the_library() {
    let vocabulary = &fixture("vocabularies.json")["sentence_piece"];
    let tokenizer = from_gguf(sentence_piece());
    let cases = vocabulary["ids"].as_array().unwrap().iter().zip(vocabulary["decoded"].as_array().unwrap());
    for (text, (expected, decoded)) in strings(&vocabulary["texts"]).iter().zip(cases) {
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids(expected), "{text:?}");
        assert_eq!(tokenizer.decode(&ids(expected), true).unwrap(), decoded.as_str().unwrap());
        // Llama's SentencePiece puts BOS first.
        assert_eq!(tokenizer.encode(text, true).unwrap()[0], 1);
    }
    let mixed = &vocabulary["with_control"];
    assert_eq!(tokenizer.encode(mixed["text"].as_str().unwrap(), false).unwrap(), ids(&mixed["ids"]));
}

#[test]
fn sentence_piece_without_the_space_prefix() {
    let tokenizer = from_gguf(GgufTokenizer { add_space_prefix: Some(false), add_bos_token: Some(false), ..sentence_piece() });
    let with = from_gguf(sentence_piece());
    for text in ["The ships", " The ships", "", "  x"] {
        if !text.is_empty() {
            assert_eq!(tokenizer.encode(&format!(" {text}"), true).unwrap(), with.encode(text, false).unwrap(), "{text:?}");
        }
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, true).unwrap(), true).unwrap(), text);
    }
}

#[test]
fn a_tokenizer_file_gives_the_same_ids_and_its_padding_is_ignored() {
    let vocabulary = &fixture("vocabularies.json")["sentence_piece"];
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text/sentencepiece_tokenizer.json");
    let file = |add_bos| TextSource {
        bos_token: Some("<s>".into()),
        eos_token: Some("</s>".into()),
        add_bos,
        ..source(TokenizerSource::Json(path.clone()))
    };
    let tokenizer = Tokenizer::from_source(&file(None)).unwrap();
    assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(1), Some(2)));
    assert_eq!(tokenizer.vocab_size(), vocabulary["tokens"].as_array().unwrap().len());
    let without = Tokenizer::from_source(&file(Some(false))).unwrap();
    for (text, expected) in strings(&vocabulary["texts"]).iter().zip(vocabulary["ids"].as_array().unwrap()) {
        let expected = ids(expected);
        assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{text:?}");
        assert_eq!(without.encode(text, true).unwrap(), expected, "{text:?}");
        assert_eq!(tokenizer.encode(text, true).unwrap(), [vec![1], expected].concat(), "{text:?}");
    }
}

/// BPE dropout gives a text other ids each time.
#[test]
fn words_are_not_cut_at_random() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = fixture("sentencepiece_tokenizer.json");
    let encode = |file: &Value| {
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, file.to_string()).unwrap();
        let tokenizer = Tokenizer::from_source(&source(TokenizerSource::Json(path))).unwrap();
        (tokenizer.encode("the ships count the nights", false).unwrap(), tokenizer.notes().len())
    };
    let (ids, _) = encode(&file);
    file["model"]["dropout"] = json!(1.0);
    assert_eq!(encode(&file), (ids, 1));
}

#[test]
fn llama_cpp_s_key_for_an_end_token_is_told_of_and_prompts_do_not_get_it() {
    let with = |add_eos_token| from_gguf(GgufTokenizer { add_eos_token, ..byte_level("smollm") });
    let ids = with(None).encode("a", true).unwrap();
    for (key, notes) in [(Some(true), 1), (Some(false), 0)] {
        let tokenizer = with(key);
        assert_eq!((tokenizer.encode("a", true).unwrap(), tokenizer.notes().len()), (ids.clone(), notes), "{key:?}");
    }
}

#[test]
fn special_tokens_are_found_in_all_the_files_that_transformers_reads() {
    let fixture = fixture("special_tokens.json");
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 700, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128,
    });
    for case in fixture["cases"].as_array().unwrap() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &Value| std::fs::write(folder.path().join(name), content.to_string()).unwrap();
        let bos = case["bos"] == true;
        let key = format!("{}{}", u8::from(!case["listed"].as_array().unwrap().is_empty()), u8::from(bos));
        write("tokenizer.json", &fixture["tokenizers"][&key]);
        write("config.json", &config);
        case["files"].as_object().unwrap().iter().for_each(|(name, content)| write(name, content));
        let config = hugging_face::config(folder.path()).unwrap();
        let tokenizer = Tokenizer::from_source(&hugging_face::text(folder.path(), &config).unwrap()).unwrap();
        let name = &case["name"];
        for (at, text) in strings(&fixture["texts"]).iter().enumerate() {
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case["ids"][at]), "{name}: {text:?}");
            // transformers adds BOS to a text that begins with it.
            let mut expected = ids(&case["with_added"][at]);
            if bos && expected[..2] == [0, 0] {
                expected.remove(0);
            }
            assert_eq!(tokenizer.encode(text, true).unwrap(), expected, "{name}: {text:?}");
        }
        let eos = tokenizer.eos_token_id().and_then(|id| tokenizer.token(id));
        assert_eq!(eos.as_deref(), case["eos_token"].as_str(), "{name}");
    }
}

#[test]
fn llama_3_puts_bos_first_and_others_do_not() {
    assert_eq!(from_gguf(byte_level("llama-bpe")).encode("x", true).unwrap()[0], 0);
    for pre in ["smollm", "gpt-2", "qwen2"] {
        let tokenizer = from_gguf(byte_level(pre));
        assert_eq!(tokenizer.encode("x", true).unwrap(), tokenizer.encode("x", false).unwrap());
    }
    let told = from_gguf(GgufTokenizer { add_bos_token: Some(true), ..byte_level("smollm") });
    assert_eq!(told.encode("x", true).unwrap()[0], 0);
    assert_eq!(told.encode("<|endoftext|>x", true).unwrap()[..2], [0, told.encode("x", false).unwrap()[0]]);
}

#[test]
fn special_tokens_are_those_that_the_file_marks() {
    let typed = from_gguf(byte_level("smollm"));
    assert_eq!(typed.special_tokens().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(typed.notes().is_empty());
    // Without types, or typed as ordinary text: what looks like a mark is one all the same, as in llama.cpp, and a note says so.
    for types in [Vec::new(), vec![1; typed.vocab_size()]] {
        let untyped = from_gguf(GgufTokenizer { token_types: types, ..byte_level("smollm") });
        assert_eq!(untyped.special_tokens().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(untyped.notes()[0].contains("\"<|im_start|>\" (id 1)"), "{:?}", untyped.notes());
    }
    let untyped = from_gguf(GgufTokenizer { token_types: Vec::new(), ..byte_level("smollm") });
    assert_eq!(untyped.decode(&untyped.encode("a<|im_end|>", false).unwrap(), true).unwrap(), "a");
    // An ordinary token cannot be special, whatever a configuration says.
    let letter = typed.token_id("a").unwrap();
    let source = source(TokenizerSource::Gguf(byte_level("smollm")));
    let odd = Tokenizer::from_source(&TextSource { eos_token_ids: vec![letter], ..source }).unwrap();
    assert!(!odd.is_special(letter) && odd.is_special(2) && odd.eos_token_id() == Some(2));
}

#[test]
fn what_is_not_supported_is_named() {
    let refused = |gguf| match Tokenizer::from_source(&source(TokenizerSource::Gguf(gguf))) {
        Ok(_) => panic!("accepted"),
        Err(error) => {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        }
    };
    let message = refused(byte_level("chatglm-bpe"));
    assert!(message.contains("`chatglm-bpe`") && message.contains("smollm, gpt-2, llama-bpe, dbrx, qwen2"), "{message}");
    assert!(refused(GgufTokenizer { pre: None, ..byte_level("") }).contains("does not name its pre-tokenizer"));
    assert!(refused(GgufTokenizer { model: "t5".into(), ..byte_level("gpt-2") }).contains("`t5`"));
    assert!(refused(GgufTokenizer { merges: vec!["ab".into()], ..byte_level("gpt-2") }).contains("merges[0]"));
    assert!(refused(GgufTokenizer { merges: vec!["a qqq".into()], ..byte_level("gpt-2") }).contains("merges"));
    assert!(refused(GgufTokenizer { merges: Vec::new(), ..byte_level("gpt-2") }).contains("merges"));
    assert!(refused(GgufTokenizer { tokens: Vec::new(), ..byte_level("gpt-2") }).contains("tokens"));
    assert!(refused(GgufTokenizer { token_types: vec![1], ..byte_level("gpt-2") }).contains("token_type"));
    assert!(refused(GgufTokenizer { scores: Vec::new(), ..sentence_piece() }).contains("scores"));
    assert!(refused(GgufTokenizer { eos_token_id: Some(9_999_999), ..byte_level("gpt-2") }).contains("9999999"));
    let missing = source(TokenizerSource::Json("no/such/tokenizer.json".into()));
    assert!(Tokenizer::from_source(&missing).err().unwrap().to_string().contains("no/such/tokenizer.json"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The pieces of a stream join to the decoded whole. (SentencePiece shows a whole run of byte tokens as U+FFFD when one of
    /// them is wrong; a stream cannot take back what it has shown.)
    #[test]
    fn a_stream_gives_what_decoding_gives(ids in prop::collection::vec(0u32..460, 0..40), piece in any::<bool>(), special in any::<bool>()) {
        let tokenizer = if piece { from_gguf(sentence_piece()) } else { from_gguf(byte_level("gpt-2")) };
        let mut stream = if special { tokenizer.decode_stream_with_special() } else { tokenizer.decode_stream() };
        let mut text: String = ids.iter().filter_map(|id| stream.push(*id)).collect();
        text.extend(stream.finish());
        let whole = tokenizer.decode(&ids, !special).unwrap();
        if !piece || !whole.contains(char::REPLACEMENT_CHARACTER) {
            prop_assert_eq!(text, whole);
        }
    }

    /// A character appears when its last byte arrives, and not later.
    #[test]
    fn a_stream_waits_for_whole_characters_only(text in "[ a-zé你🙂]{0,30}") {
        for tokenizer in [from_gguf(sentence_piece()), from_gguf(byte_level("gpt-2"))] {
            let ids = tokenizer.encode(&text, false).unwrap();
            let mut stream = tokenizer.decode_stream();
            let mut shown = String::new();
            for count in 1..=ids.len() {
                shown.extend(stream.push(ids[count - 1]));
                let now = tokenizer.decode(&ids[..count], true).unwrap();
                prop_assert!(!shown.contains(char::REPLACEMENT_CHARACTER));
                if !now.contains(char::REPLACEMENT_CHARACTER) {
                    prop_assert_eq!(&shown, &now);
                }
            }
            prop_assert_eq!(shown, text.clone());
        }
    }

    /// Encoding with some special tokens as plain text leaves everything else as it is.
    #[test]
    fn special_tokens_can_be_plain_text(before in "[a-z 1\n]{0,9}", inside in "[a-z 1\n]{0,9}", after in "[a-z 1\n]{0,9}") {
        let text = format!("<|im_start|>{before}<|im_end|>{inside}<|im_end|>{after}");
        let second = text.rfind("<|im_end|>").unwrap();
        let tokenizer = from_gguf(byte_level("smollm"));
        let literal = second - inside.len()..second + 10;
        let encoded = tokenizer.encode_literally(&text, std::slice::from_ref(&literal)).unwrap();
        let ends = encoded.ids.iter().filter(|id| tokenizer.is_special(**id)).count();
        prop_assert_eq!(ends, 2);
        prop_assert_eq!(tokenizer.decode(&encoded.ids, false).unwrap(), text.clone());
        let plain = tokenizer.encode_literally(&text, &[]).unwrap();
        prop_assert_eq!(plain, tokenizer.encode_with_ranges(&text, false).unwrap());
    }
}

#[test]
fn templates_render_what_transformers_renders() {
    let fixture = fixture("templates.json");
    for case in fixture["cases"].as_array().unwrap() {
        let family = &fixture["templates"][case["family"].as_str().unwrap()];
        let token = |key: &str| family[key].as_str().map(str::to_string);
        let template =
            ChatTemplate::compile("test", family["template"].as_str().unwrap(), token("bos_token"), token("eos_token")).unwrap();
        let messages: Vec<Message> =
            serde_json::from_value(fixture["conversations"][case["conversation"].as_str().unwrap()].clone()).unwrap();
        let rendered = template.render(&messages, case["add_generation_prompt"].as_bool().unwrap());
        match (rendered, case["error"].as_str()) {
            (Ok(text), None) => assert_eq!(text, case["text"].as_str().unwrap(), "{case}"),
            (Err(error), Some(reason)) => assert!(error.to_string().contains(reason), "{error}"),
            (rendered, _) => panic!("{case}: {rendered:?}"),
        }
    }
}

#[test]
fn snippets_render_as_jinja2_renders_them_or_are_refused() {
    let fixture = fixture("template_snippets.json");
    let messages: Vec<Message> = serde_json::from_value(fixture["messages"].clone()).unwrap();
    let (mut otherwise, mut refused, mut cases) = (Vec::new(), Vec::new(), 0);
    for case in fixture["cases"].as_array().unwrap() {
        let source = case["template"].as_str().unwrap();
        let rendered = ChatTemplate::compile_at("test", source, Some("<s>".into()), Some("</s>".into()), 0)
            .and_then(|template| template.render(&messages, true));
        cases += 1;
        match (rendered, case["text"].as_str()) {
            (Ok(text), Some(expected)) if text == expected => {}
            (Err(_), None) => {}
            (Err(error), Some(_)) => refused.push(format!("{source}: {error}")),
            (Ok(text), expected) => otherwise.push(format!("{source:?}: {text:?} instead of {expected:?}")),
        }
    }
    assert!(otherwise.is_empty(), "{} of {cases} render otherwise:\n{}", otherwise.len(), otherwise.join("\n"));
    // What is refused says what it is, and is little.
    assert!(refused.iter().all(|refusal| refusal.contains("the chat template")), "{refused:#?}");
    assert!(refused.len() <= 24, "{} of {cases} are refused:\n{}", refused.len(), refused.join("\n"));
}

fn refusal(template: &str) -> String {
    match ChatTemplate::compile("here.jinja", template, None, None)
        .and_then(|template| template.render(&[Message::new("user", "x")], true))
    {
        Ok(text) => panic!("rendered {} bytes", text.len()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn errors_of_a_template_name_its_origin_and_line() {
    let syntax = refusal("a\nb\n{% if %}");
    assert!(syntax.starts_with("here.jinja, line 3: the chat template has a syntax error"), "{syntax}");
    let raised = refusal("a\n{{ raise_exception('no ' ~ messages[0].role) }}");
    assert!(raised.starts_with("here.jinja, line 2: the chat template refuses these messages: no user"), "{raised}");
    assert!(refusal("{{ messages[0].content.frobnicate() }}").contains("frobnicate"));
    let after_raw = refusal("{% raw %}\n{{ x }}\n{% endraw %}\n{%- raw %}\n{% endraw %}{{ raise_exception('here') }}");
    assert!(after_raw.starts_with("here.jinja, line 5: "), "{after_raw}");
    assert!(refusal("{{ messages[0] + bos_token }}").contains("line 1"));
}

#[test]
fn a_hostile_template_comes_to_an_end() {
    let endless =
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}";
    assert!(refusal(endless).contains("does not come to an end"));
    let big = "{% set x = 'x' * 90000 %}{% for a in range(9999) %}{{ x }}{% endfor %}";
    assert!(refusal(big).contains("writes more than"));
    let deep = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(!refusal(deep).is_empty());
    let include = std::env::temp_dir().join("x").display().to_string();
    assert!(refusal(&format!("{{% include '{include}' %}}")).contains("line 1"));
    assert!(!refusal(&"{% if true %}".repeat(100_000)).is_empty());
    assert!(!refusal(&format!("{{{{ {} }}}}", "(".repeat(100_000))).is_empty());
}

#[test]
fn a_template_can_have_a_fixed_date() {
    let template = ChatTemplate::compile_at("test", "{{ strftime_now('%d %b %Y') }}", None, None, 1_709_164_800).unwrap();
    assert_eq!(template.render(&[], false).unwrap(), "29 Feb 2024");
}

#[test]
fn smollm2_encodes_as_the_reference() {
    let Some(source) = smollm2() else { return };
    let tokenizer = Tokenizer::from_source(&source).unwrap();
    for prompt in fixture("smollm2_prompts.json").as_object().unwrap().values() {
        assert_eq!(tokenizer.encode(prompt["text"].as_str().unwrap(), true).unwrap(), ids(&prompt["input_ids"]));
    }
    let figures = fixture("smollm2.json");
    for (text, expected) in strings(&figures["texts"]).iter().zip(figures["ids"].as_array().unwrap()) {
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids(expected), "{text:?}");
    }
    let template = ChatTemplate::from_source(&source).unwrap().unwrap();
    let mut rendered = figures["rendered"].as_array().unwrap().iter();
    for conversation in figures["conversations"].as_array().unwrap() {
        let messages: Vec<Message> = serde_json::from_value(conversation.clone()).unwrap();
        for prompt in [false, true] {
            assert_eq!(template.render(&messages, prompt).unwrap(), rendered.next().unwrap().as_str().unwrap());
        }
    }
}

#[test]
fn the_name_of_a_special_token_can_be_text_with_every_kind_of_tokenizer() {
    // SentencePiece with its space prefix, byte-level BPE, and a tokenizer.json whose words get a prefix at the beginning only.
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text/sentencepiece_tokenizer.json");
    let mut metaspace: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    metaspace["normalizer"] = Value::Null;
    metaspace["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false});
    for token in metaspace["added_tokens"].as_array_mut().unwrap() {
        token["rstrip"] = json!(true);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.json");
    std::fs::write(&file, metaspace.to_string()).unwrap();
    let metaspace = Tokenizer::from_source(&source(TokenizerSource::Json(file))).unwrap();
    for (tokenizer, mark) in
        [(from_gguf(sentence_piece()), "</s>"), (metaspace, "</s>"), (from_gguf(byte_level("smollm")), "<|im_end|>")]
    {
        let text = format!("The ships{mark} a {mark} b{mark}\n{mark}{mark} c");
        let places: Vec<usize> = text.match_indices(mark).map(|(at, _)| at).collect();
        let id = tokenizer.token_id(mark).unwrap();
        // Each of them alone as text; then all.
        for place in &places {
            let encoded = tokenizer.encode_literally(&text, std::slice::from_ref(&(*place..place + mark.len()))).unwrap();
            assert_eq!(encoded.ids.iter().filter(|other| **other == id).count(), places.len() - 1, "{mark} at {place}");
            assert!(encoded.ranges.iter().all(|range| range.start <= range.end && range.end <= text.len()));
        }
        let all = tokenizer.encode_literally(&text, std::slice::from_ref(&(0..text.len()))).unwrap();
        assert!(!all.ids.contains(&id));
        assert_eq!(tokenizer.decode(&all.ids, false).unwrap().trim_start(), text);
        // Private characters of the text itself stay what they are.
        let private = format!("\u{100000}{mark}\u{100001}");
        let encoded = tokenizer.encode_literally(&private, std::slice::from_ref(&(4..4 + mark.len()))).unwrap();
        assert!(!encoded.ids.contains(&id));
    }
}
