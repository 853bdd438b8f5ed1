//! Records and files in the forms that people have.

use std::fs;
use std::io::Write;

use graftling::data::{LoadOptions, LongRecords, load_files};

use super::*;

const PLAIN: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content %}{{ m.content }}{% endif %}\
    {% for call in m.tool_calls %}[{{ call.function.name }} {{ call.function.arguments | tojson }}]{% endfor %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn chatml() -> ChatTemplate {
    compiled(PLAIN, None, None)
}

/// Whole text and learned text of one record.
fn read(record: Value, template: Option<&ChatTemplate>) -> (String, String) {
    let dataset = load_records(&[record], template, 999).unwrap();
    let tokenizer = tokenizer("<|im_end|>");
    let example = &dataset.examples[0];
    (tokenizer.decode(&example.input_ids, false).unwrap(), learned(example, &tokenizer).concat())
}

#[test]
fn names_of_other_data_sets_mean_the_same_conversation() {
    let turns = [json!({"role": "user", "content": "Hi"}), json!({"role": "assistant", "content": "Lo"})];
    let wanted = read(json!({"messages": turns}), Some(&chatml()));
    assert_eq!(wanted.1, "Lo<|im_end|>");
    for same in [
        json!({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Lo"}], "id": "7", "source": "x"}),
        json!({"conversations": turns}),
        json!({"messages": json!(turns).to_string()}),
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, turns[1]]}),
        json!({"messages": turns, "prompt": "Hi", "prompt_id": "a", "category": null}),
        json!({"prompt": [turns[0]], "completion": [turns[1]]}),
        json!({"instruction": "Hi", "input": "", "output": "Lo", "text": "### Hi\nLo"}),
    ] {
        assert_eq!(read(same.clone(), Some(&chatml())), wanted, "{same}");
    }
    let with_input = read(json!({"instruction": "Add.", "input": "1 and 1", "output": "2"}), Some(&chatml()));
    assert!(with_input.0.contains("user\nAdd.\n1 and 1<|im_end|>"), "{}", with_input.0);
    let (text, output) = read(json!({"instruction": "Add.", "input": "1 and 1", "output": "2"}), None);
    assert!(text.contains("### Instruction:\nAdd.\n\n### Input:\n1 and 1\n\n### Response:\n2"), "{text}");
    assert_eq!(output, "2<|im_end|>");
}

#[test]
fn a_turn_of_weight_0_is_context_only() {
    let turn = |role: &str, content: &str, weight: i32| json!({"role": role, "content": content, "weight": weight});
    let record =
        json!({"messages": [turn("user", "a", 0), turn("assistant", "b", 0), turn("user", "c", 0), turn("assistant", "d", 1)]});
    assert_eq!(read(record, Some(&chatml())).1, "d<|im_end|>");
    let completion = json!({"prompt": [turn("user", "a", 0), turn("assistant", "b", 1), turn("user", "c", 0)],
        "completion": [{"role": "assistant", "content": "d"}]});
    assert_eq!(read(completion, Some(&chatml())).1, "d<|im_end|>");
}

#[test]
fn tool_calls_and_variables_reach_the_template() {
    let call = |arguments: Value| {
        json!({"messages": [{"role": "user", "content": "a"},
            {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "ferry", "arguments": arguments}}]},
            {"role": "tool", "name": "ferry", "content": "9"}, {"role": "assistant", "content": "At nine."}]})
    };
    let object = read(call(json!({"to": "Lune"})), Some(&chatml()));
    assert!(object.0.contains("[ferry {\"to\": \"Lune\"}]"), "{}", object.0);
    assert_eq!(object.1, "[ferry {\"to\": \"Lune\"}]<|im_end|>At nine.<|im_end|>");
    assert_eq!(read(call(json!("{\"to\": \"Lune\"}")), Some(&chatml())), object, "not quoted twice");
    let silent = compiled("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}", None, None);
    let lost = load_records(&[call(json!({}))], Some(&silent), 999).unwrap_err().to_string();
    assert!(lost.contains("does not show the call of `ferry`"), "{lost}");

    let source = "{{ tools | tojson if tools else '' }}{{ mood }}".to_string() + PLAIN;
    let record = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "tools": "[{\"name\": \"ferry\"}]", "chat_template_kwargs": {"mood": "calm"}});
    let (text, _) = read(record.clone(), Some(&compiled(&source, None, None)));
    assert!(text.starts_with("[{\"name\": \"ferry\"}]calm<|im_start|>"), "{text}");
    let report = load_records(&[record], Some(&chatml()), 999).unwrap().report.to_string();
    assert!(report.contains("`tools` that the chat template does not show"), "{report}");
}

#[test]
fn what_changes_the_meaning_is_refused_by_name_and_what_does_not_is_told_of() {
    let turns = json!([{"role": "user", "content": "a", "id": 3}, {"role": "assistant", "content": "b"}]);
    let dataset = load_records(&[json!({"messages": turns, "source": "x", "score": 1.5})], Some(&chatml()), 99).unwrap();
    assert!(
        dataset
            .report
            .to_string()
            .contains("passed over, as they change nothing that is learned: `messages[].id`, `score`, `source`")
    );
    let with = |key: &str, value: Value| {
        let mut record = json!({"messages": turns});
        record[key] = value;
        record
    };
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    for (record, parts) in [
        (json!({"prompt": "a", "chosen": "b", "rejected": "c"}), ["preference record", "`completion`"]),
        (json!({"messages": image}), ["`image_url`", "images"]),
        (with("images", json!(["x.png"])), ["`images`", "remove the records"]),
        (with("weight", json!(0.5)), ["`weight`", "repeat or remove"]),
        (with("tool", json!([{}])), ["unknown key `tool`", "`tools`"]),
        (json!({"prompt": "a", "completion": "b", "label": false}), ["`label`", "without the label"]),
        (json!({"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}), ["weight` is 0.5", "0 (context only)"]),
        (json!({"messages": [{"role": "assistant", "content": "a", "train": false}]}), ["`train`", "\"weight\": 0"]),
        (json!({"conversations": [{"from": "alien", "value": "a"}]}), ["\"alien\"", "human"]),
        (json!({"text": "a", "labels": [1]}), ["`labels`", "input_ids"]),
        (json!({"input_ids": [1, 2], "attention_mask": [1, 0]}), ["`attention_mask`", "padding"]),
    ] {
        let message = load_records(&[json!({"text": "fine"}), record], Some(&chatml()), 99).unwrap_err().to_string();
        assert!(message.contains(":2") && parts.iter().all(|part| message.contains(part)), "{parts:?}: {message}");
    }
    let surrogate = load_text("{\"text\": \"\\ud83d\"}", None, 9).unwrap_err().to_string();
    assert!(surrogate.contains(":1:") && surrogate.contains("one half of a character"), "{surrogate}");
    let comma = load_text("{\"text\": \"a\",}", None, 9).unwrap_err().to_string();
    assert!(comma.contains(":1:") && comma.contains("remove the comma"), "{comma}");
}

fn load_bytes(name: &str, bytes: &[u8]) -> graftling::Result<Dataset> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    load(&path, &tokenizer("<|im_end|>"), Some(&chatml()), 99)
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn one_record_is_the_same_in_every_kind_of_file() {
    let lines = "{\"prompt\": \"a, b\", \"completion\": \" c\\nd\"}\n\n{\"prompt\": \"e\", \"completion\": \"f\"}\n";
    let wanted = load_bytes("data.jsonl", lines.as_bytes()).unwrap();
    let list = "[\n {\"prompt\": \"a, b\", \"completion\": \" c\\nd\"} ,\n{\"prompt\": \"e\",\n \"completion\": \"f\"}]\n";
    let csv = "\u{feff}prompt,completion,id\r\n\"a, b\",\" c\nd\",1\r\ne,f,2\r\n";
    for (name, bytes) in [
        ("data.json", list.as_bytes().to_vec()),
        ("data.csv", csv.as_bytes().to_vec()),
        ("data.txt", csv.as_bytes().to_vec()),
        ("data.tsv", b"prompt\tcompletion\na, b\t\" c\nd\"\ne\tf\n".to_vec()),
        ("data.jsonl.gz", gzipped(lines.as_bytes())),
        ("data.csv.gz", gzipped(csv.as_bytes())),
    ] {
        let dataset = load_bytes(name, &bytes).unwrap();
        assert_eq!(dataset.fingerprint(), wanted.fingerprint(), "{name}");
    }
    let refused = |name: &str, bytes: &[u8], part: &str| {
        let message = load_bytes(name, bytes).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(part), "{part}: {message}");
    };
    refused("a.json", b"[{\"text\": \"a\"},\n]", "a.json:2: this is not JSON: a comma");
    refused("a.json", b"[{\"text\": \"a\"},\n{\"text\": 7}]", "a.json:2, record 2: `text` is a number");
    refused("a.json", b"[{\"text\": \"a\"}", "the list has no end");
    refused("a.csv", b"text,id\na,1,2\n", "a.csv:2: the row has 3 cells");
    refused("a.csv", b"question,answer\na,b\n", "names no column of a record");
    refused("a.csv", b"messages\n\"[{'role': 'user', 'content': 'a'}]\"\n", "Python's own notation");
    refused("a.jsonl", b"\xff\xfe{\x00", "UTF-16");
    refused("a.jsonl", b"{\0\0\0\"\0\0\0", "UTF-32");
    refused("a.jsonl.gz", &gzipped(&gzipped(b"{}")), "inside a gzipped file");
    refused("a.csv", b"text,id\n\"a\"\"b\",1\n\"c,2\nd,3\n", "a.csv:3: a cell begins with a quote that nothing closes");
    refused("a.jsonl", b"{\"text\": \"a\"}\r{\"text\": \"b\"}\r", "each record stands on a line of its own");
    refused("a.jsonl", b"{\"text\": \"a\", \"score\": NaN}\n", "NaN and Infinity are Python's");
    refused("a.jsonl", b"{\"text\": \"a\"}\n\0\0\0", "a.jsonl:2: there is a NUL byte");
    refused("a.jsonl", b"PK\x03\x04", "zip file");
    refused("a.jsonl", b"<!DOCTYPE html>", "web page");
    refused("a.jsonl.gz", b"\x1f\x8b\x08broken", "gzip file is damaged");
    refused("a.parquet", b"PAR1 broken PAR1", "Parquet file cannot be read");
    refused("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull");
}

#[test]
fn several_files_are_one_data_set_and_held_out_records_stay_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, numbers: &mut dyn Iterator<Item = usize>| {
        let path = folder.path().join(name);
        fs::write(&path, numbers.map(|number| format!("{{\"text\": \"record {number}\"}}\n")).collect::<String>()).unwrap();
        path
    };
    let tokenizer = tokenizer("<|im_end|>");
    let options = LoadOptions { eval_split: Some(0.2), ..LoadOptions::new(99) };
    let texts = |data: &Dataset| -> BTreeSet<String> {
        data.examples.iter().map(|example| tokenizer.decode(&example.input_ids, false).unwrap()).collect()
    };
    let two = [write("a.jsonl", &mut (0..100)), write("b.jsonl", &mut (100..200))];
    let (train, held_out) = load_files(&two, &tokenizer, None, options).unwrap();
    let held_out = held_out.unwrap();
    assert_eq!(train.examples.len() + held_out.examples.len(), 200);
    assert!((20..60).contains(&held_out.examples.len()), "{}", held_out.examples.len());
    assert!(texts(&train).is_disjoint(&texts(&held_out)));
    assert!(train.report.place(101).ends_with("b.jsonl:1"), "{}", train.report.place(101));
    // Other order, other records beside them.
    let (_, again) = load_files(&[write("c.jsonl", &mut (50..150).rev())], &tokenizer, None, options).unwrap();
    let some: BTreeSet<String> = texts(&again.unwrap());
    assert!(some.is_subset(&texts(&held_out)) && !some.is_empty());
    let none = load_files(&[write("d.jsonl", &mut (0..1))], &tokenizer, None, options).unwrap_err().to_string();
    assert!(none.contains("--eval-split 0.2") && none.contains("of 1 records none is"), "{none}");
}

#[test]
fn what_long_records_lose_is_told_and_split_loses_nothing() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(
        file,
        "{}\n{}",
        json!({"input_ids": [1, 2, 3, 4, 5, 6, 7]}),
        json!({"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, 3, 4, 5]})
    )
    .unwrap();
    let load = |long_records| {
        let options = LoadOptions { long_records, ..LoadOptions::new(3) };
        load_files(&[file.path().to_path_buf()], &tokenizer(""), None, options).map(|(data, _)| data)
    };
    let cut = load(LongRecords::Cut).unwrap();
    let shown = cut.report.to_string();
    assert!(shown.contains("2 records cut: 6 tokens lost, 6 of them supervised"), "{shown}");
    assert!(shown.contains("--long-records split"), "{shown}");
    let split = load(LongRecords::Split).unwrap();
    let rows: Vec<&[u32]> = split.examples.iter().map(|example| &example.input_ids[..]).collect();
    assert_eq!(rows, [&[1, 2, 3][..], &[4, 5], &[6, 7], &[1, 2, 3]], "the second has context, and is cut");
    assert_eq!((split.report.used, split.report.examples, split.report.split.len()), (2, 4, 1));
    let dropped = load(LongRecords::Drop).unwrap_err().to_string();
    assert!(dropped.contains("2 records left out: 12 tokens lost, 10 of them supervised"), "{dropped}");
}

/// A Parquet file with one row: a list of two structs, and a null.
fn parquet() -> Vec<u8> {
    use std::sync::Arc;

    use parquet::basic::Compression;
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    use parquet::schema::parser::parse_message_type;
    let schema = "message schema {
        REQUIRED group messages (LIST) { REPEATED group list { REQUIRED group element {
            REQUIRED BYTE_ARRAY role (UTF8); OPTIONAL BYTE_ARRAY content (UTF8); } } }
        OPTIONAL INT64 id; }";
    let mut bytes = Vec::new();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    let mut rows = writer.next_row_group().unwrap();
    for (texts, level) in [(["user", "assistant"], 1), (["Hi", "Lo"], 2)] {
        let mut column = rows.next_column().unwrap().unwrap();
        let texts = texts.map(ByteArray::from);
        column.typed::<ByteArrayType>().write_batch(&texts, Some(&[level, level]), Some(&[0, 1])).unwrap();
        column.close().unwrap();
    }
    let mut column = rows.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[], Some(&[0]), None).unwrap();
    column.close().unwrap();
    rows.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_holds_lists_of_messages() {
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Lo"}]);
    let wanted = load_records(&[json!({"messages": turns})], Some(&chatml()), 99).unwrap();
    let bytes = parquet();
    let dataset = load_bytes("data.parquet", &bytes).unwrap();
    assert_eq!(dataset.fingerprint(), wanted.fingerprint());
    assert!(dataset.report.place(1).ends_with("data.parquet, row 1"), "{}", dataset.report.place(1));
    let shown = preview(&dataset, &tokenizer("<|im_end|>"), 1, false);
    assert!(shown.contains("record 1 (row 1)"), "{shown}");
    // Cut short, or damaged in the middle: an error, and no panic.
    for wrong in [&bytes[..bytes.len() - 9], &[&bytes[..4], &[0xff; 60], &bytes[64..]].concat()] {
        let message = load_bytes("data.parquet", wrong).unwrap_err().to_string();
        assert!(message.contains("Parquet file cannot be read"), "{message}");
    }
}

/// mlx-lm's habit.
#[test]
fn a_folder_is_its_train_and_its_held_out_files() {
    use graftling::data::source::folder::{Side, brought, files};
    let folder = tempfile::tempdir().unwrap();
    let all = [folder.path().to_path_buf()];
    let none = files(&all, Side::Train).unwrap_err().to_string();
    assert!(none.contains("no train.jsonl"), "{none}");
    let [train, valid] = ["train.jsonl", "valid.jsonl"].map(|name| folder.path().join(name));
    fs::write(&train, "{}").unwrap();
    assert!(brought(&all).unwrap().is_empty());
    fs::write(&valid, "{}").unwrap();
    fs::write(folder.path().join("trainer.jsonl"), "{}").unwrap();
    assert_eq!(files(&all, Side::Train).unwrap(), std::slice::from_ref(&train));
    assert_eq!(brought(&all).unwrap(), std::slice::from_ref(&valid));
    assert!(brought(&[train]).unwrap().is_empty(), "a file brings nothing");
    fs::write(folder.path().join("train.csv"), "text\na").unwrap();
    assert!(files(&all, Side::Train).unwrap_err().to_string().contains("not clear which"));
}
