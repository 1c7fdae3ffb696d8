use super::*;

/// Writes the documents of a text in one line each.
fn parsed(text: &str) -> Result<Vec<String>, String> {
    let mut documents = Vec::new();
    parse(text, |number, root| {
        documents.push(format!("{number} {}", shown(root)));
        Ok(())
    })
    .map_err(|problem| format!("{} {}", problem.mark, problem.message))?;
    Ok(documents)
}

fn shown(node: &Node) -> String {
    match &node.content {
        Content::Nothing => "~".to_owned(),
        Content::Text(text) => format!("{text:?}"),
        Content::List(list) => {
            let nodes: Vec<_> = list.iter().map(|node| shown(node)).collect();
            format!("[{}]", nodes.join(" "))
        }
        Content::Fields(fields) => {
            let field = |field: &Field| format!("{}={}", field.name, shown(&field.node));
            let fields: Vec<_> = fields.iter().map(field).collect();
            format!("{{{}}}", fields.join(" "))
        }
    }
}

#[test]
fn scalars_are_the_text_that_is_written() {
    let text =
        "a: no\nb: 1.10\nc: 0x1f\nd: ~\ne: ''\nf: 'null'\ng: !!str null\nh: |\n  two\n  lines\nno: y\n";
    assert_eq!(
        parsed(text).unwrap(),
        [r#"1 {a="no" b="1.10" c="0x1f" d=~ e="" f="null" g="null" h="two\nlines\n" no="y"}"#]
    );
}

#[test]
fn json_is_read_as_it_is_written_by_others() {
    let text = "{\n\t\"a\": [1, true, null, \"\\ud83d\\ude00\\/\\u00e9\"],\r\n\t\"b\": {}\n}\n";
    assert_eq!(parsed(text).unwrap(), [r#"1 {a=["1" "true" ~ "😀/é"] b={}}"#]);
}

#[test]
fn documents_are_counted_and_empty_ones_left_out() {
    let text = "a: 1\n---\n# nothing\n---\n- 2\n...\n---\n";
    assert_eq!(parsed(text).unwrap(), [r#"1 {a="1"}"#, r#"3 ["2"]"#]);
    assert_eq!(parsed("").unwrap(), [""; 0]);
}

#[test]
fn an_alias_repeats_what_it_names_within_its_document() {
    let text = "a: &x V1\nb: *x\nc: &y [*x]\nd: *y\n";
    assert_eq!(parsed(text).unwrap(), [r#"1 {a="V1" b="V1" c=["V1"] d=["V1"]}"#]);
    assert!(parsed("a: &x 1\n---\nb: *x\n").is_err());
}

#[test]
fn what_readers_could_understand_differently_is_refused_where_it_stands() {
    for (text, problem) in [
        ("a: 1\nb: 2\na: 3\n", "3:1 `a` stands twice in one mapping"),
        (
            "a: &x {b: 1}\nc:\n  <<: *x\n",
            "3:3 is a merge key, and they are not taken; write the fields out",
        ),
        (
            "a: !!binary aGk=\n",
            "1:13 has the tag `tag:yaml.org,2002:binary`, and tags are not taken; leave it out",
        ),
        ("? [a]\n: b\n", "1:3 must be a text: it is the name of a field"),
        ("a: &x [*x]\n", "1:8 is an alias of what contains it"),
    ] {
        assert_eq!(parsed(text), Err(problem.to_owned()), "{text}");
    }
}

#[test]
fn what_is_broken_is_refused_where_it_breaks() {
    for (text, place) in [
        ("a: b\n  c: d\n", "2:4 "),
        ("a: [\n", "1:4 "),
        ("a:\n\t- b\n", "2:"),
    ] {
        let problem = parsed(text).unwrap_err();
        assert!(problem.starts_with(place), "{problem}");
        assert!(problem.contains("is neither YAML nor JSON: "), "{problem}");
    }
}

#[test]
fn aliases_of_aliases_and_deep_nests_end_early() {
    let level = |level: usize| {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        format!("a{level}: &a{level} [{aliases}]\n")
    };
    let bomb =
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned() + &(1..12).map(level).collect::<String>();
    let problem = parsed(&bomb).unwrap_err();
    assert!(
        problem.contains("makes the file larger than 10000000 values"),
        "{problem}"
    );
    assert!(parsed(&"[".repeat(100_000)).is_err());
    assert!(parsed(&"a:\n".repeat(3).replace("a:\n", "a: {b: ")).is_err());
}
