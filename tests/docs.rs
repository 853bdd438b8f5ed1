//! The pages of the documentation: their links lead somewhere, and their tables say what the code says.

use std::path::{Path, PathBuf};

use graftling::advise::evidence::measured;
use graftling::architecture::FAMILIES;
use graftling::storage::DType;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README.md and the pages of docs/.
fn pages() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.push(root().join("README.md"));
    pages
}

/// What stands in `](...)`.
fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

#[test]
fn every_link_leads_to_a_file() {
    let mut checked = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.starts_with("https://")) {
            let (file, mark) = link.split_once('#').unwrap_or((link, ""));
            assert!(mark.is_empty(), "{}: `{link}` leads into a page, which nobody checks", page.display());
            let target = page.parent().unwrap().join(file);
            assert!(target.exists(), "{}: `{link}` leads nowhere", page.display());
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} links were found");
}

#[test]
fn the_index_names_every_page() {
    let index = read("docs/README.md");
    for page in pages() {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(name == "README.md" || index.contains(&format!("[{name}]({name})")), "docs/README.md does not name {name}");
    }
}

/// Two screens: what, for whom, two commands, own data, what fits, where to read on.
#[test]
fn the_readme_stays_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 110, "README.md has {lines} lines; details belong to docs/");
}

#[test]
fn the_table_of_families_is_that_of_the_code() {
    let page = read("docs/models.md");
    for family in FAMILIES {
        let gguf = if family.ggml.is_empty() { "as another family".to_string() } else { format!("`{}`", family.ggml) };
        let row = format!("| {} | `{}` | {gguf} |", family.models, family.class);
        assert!(page.lines().any(|line| line == row), "docs/models.md lacks the row\n{row}");
    }
    let rows = page.lines().filter(|line| line.contains("ForCausalLM`")).count();
    assert_eq!(rows, FAMILIES.len(), "docs/models.md has a row for a family that is not there");
}

fn row_of(format: DType) -> String {
    let written = if format.can_quantise() || format.block() == 1 { format!("`{format}`") } else { String::new() };
    format!("| {} | {} | {} | {} | {written} |", format.name(), format.block(), format.block_bytes(), format.bytes(1024))
}

#[test]
fn the_table_of_formats_is_that_of_the_code() {
    let page = read("docs/models.md");
    let rows: Vec<String> = DType::WEIGHTS.into_iter().map(row_of).collect();
    let table = rows.join("\n");
    assert!(page.contains(&table), "docs/models.md should have the table\n{table}");
}

/// From plans, not from memory: `graftling doctor` prints the same.
#[test]
fn the_table_of_gpus_is_that_of_the_plan() {
    let table = graftling::train::needs::table().unwrap();
    assert!(read("docs/models.md").contains(&table), "docs/models.md should have the table\n{table}");
}

/// The last column of the tables names tests that exist: `tests/NAME.rs` or `tests/NAME/main.rs`, or a function in one; or, for what is
/// proven by hand, the script that does it.
#[test]
fn proofs_name_tests_that_exist() {
    let page = read("docs/proof.md");
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| what") && !line.starts_with("| planted"))
        .collect();
    assert!(rows.len() > 10);
    let mut tests = String::new();
    let mut folders = vec![root().join("tests")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "rs" => tests += &std::fs::read_to_string(path).unwrap(),
                _ => {}
            }
        }
    }
    for row in rows {
        let column = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let names: Vec<&str> = column.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test is named in: {row}");
        for name in names {
            let by_hand = column.trim().starts_with("by hand: ") && name.starts_with("tools/") && root().join(name).exists();
            let mut files = ["tests/NAME.rs", "tests/NAME/main.rs"].iter();
            let there = by_hand
                || files.any(|path| root().join(path.replace("NAME", name)).exists())
                || tests.contains(&format!("fn {name}("));
            assert!(there, "there is no test `{name}`: {row}");
        }
    }
}

/// Pages name paths of the repository in code marks.
#[test]
fn named_paths_exist() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for (number, line) in text.lines().enumerate() {
            for word in line.split(|character: char| character.is_whitespace() || "`(),;:\"".contains(character)) {
                let starts = ["src/", "shaders/", "tests/", "tools/", "benches/", "docs/"];
                let plain = !word.contains(['*', '<', '{', '$']);
                if plain && starts.iter().any(|start| word.starts_with(start)) {
                    let path = word.trim_start_matches("./").trim_end_matches('.');
                    assert!(root().join(path).exists(), "{}:{}: there is no {path}", page.display(), number + 1);
                }
            }
        }
    }
}

/// The page shows every arm of the table that advice cites, with its figures, and no other.
#[test]
fn the_tables_of_sweeps_are_those_that_advice_cites() {
    let page = read("docs/placement.md");
    let arms = measured();
    for arm in &arms {
        let recipe = root().join("data/sweeps").join(arm.sweep).with_extension("toml");
        assert!(recipe.exists(), "data/sweeps/measured.tsv has an arm of {}, which is no sweep", arm.sweep);
    }
    let columns = ["trained", "paraphrase", "two-hop", "format", "check loss", "forgetting"];
    let mut expected = Vec::new();
    for arm in &arms {
        let cells = columns.iter().filter_map(|column| Some((column, arm.figure(column)?)));
        let cells: Vec<String> = cells
            .map(|(column, figure)| if ["check loss", "forgetting"].contains(column) { figure.loss() } else { figure.share() })
            .collect();
        let parameters = arm.parameters.to_string();
        let (thousands, rest) = parameters.split_at(parameters.len().saturating_sub(3));
        let (millions, thousands) = thousands.split_at(thousands.len().saturating_sub(3));
        let parts: Vec<&str> = [millions, thousands, rest].into_iter().filter(|part| !part.is_empty()).collect();
        expected.push(format!("| {} | {} | {} | {} |", arm.name, arm.rank, parts.join(","), cells.join(" | ")));
    }
    for row in &expected {
        assert!(page.lines().any(|line| line == row), "docs/placement.md lacks the row\n{row}");
    }
    let is_arm = |line: &&str| line.split(" | ").count() >= 6 && line.contains('%') && !line.contains("after");
    assert_eq!(page.lines().filter(is_arm).count(), expected.len(), "docs/placement.md has a row that is no measured arm");
}
