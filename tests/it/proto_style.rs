//! The style of the API, checked on its descriptors, as far as buf does not check it (`buf.yaml`).

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use lattice_gateway::proto::PACKAGE;
use prost_reflect::DescriptorPool;
use prost_types::EnumValueDescriptorProto;

use crate::harness::api;

#[test]
fn a_service_has_a_file_of_its_own_that_bears_its_name() {
    let mut count = 0;
    for file in &api::files() {
        let stem = file.name().rsplit('/').next().unwrap().strip_suffix(".proto");
        let services = file.service.iter().map(|service| snake_case(service.name()));
        assert!(
            services.eq(stem.filter(|stem| stem.ends_with("_service")).map(str::to_owned)),
            "{}",
            file.name()
        );
        count += file.service.len();
    }
    assert!(count >= 6);
}

#[test]
fn every_reason_of_errors_says_what_to_do() {
    let files = api::files();
    let mut enums = files.iter().flat_map(|file| &file.enum_type);
    let reasons = enums.find(|of| of.name() == "ErrorReason").unwrap();
    let reasons = reasons.value[1..].iter().map(EnumValueDescriptorProto::name);
    let page = include_str!("../../docs/errors.md");
    let headings = page.lines().filter_map(|line| line.strip_prefix("### "));
    assert_eq!(
        headings.collect::<BTreeSet<_>>(),
        reasons.collect::<BTreeSet<_>>()
    );
}

#[test]
fn every_rpc_has_a_request_and_a_response_of_its_own() {
    let files = api::files();
    let mut used = BTreeSet::new();
    for service in files.iter().flat_map(|file| &file.service) {
        for method in &service.method {
            for (used_type, suffix) in [
                (method.input_type(), "Request"),
                (method.output_type(), "Response"),
            ] {
                assert_eq!(
                    used_type,
                    format!(".lattice.control.v1.{}{suffix}", method.name())
                );
                assert!(used.insert(used_type.to_owned()), "{used_type} is used twice");
            }
        }
    }
    let written = files
        .iter()
        .flat_map(|file| &file.message_type)
        .map(|message| format!(".lattice.control.v1.{}", message.name()))
        .filter(|name| name.ends_with("Request") || name.ends_with("Response"));
    assert_eq!(
        written.collect::<BTreeSet<_>>(),
        used,
        "a request or response of no RPC"
    );
}

#[test]
fn the_descriptor_set_is_written_with_comments_routes_and_rules() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lattice-gateway"));
    let written = command.arg("descriptor-set").output().unwrap();
    assert!(written.status.success(), "{written:?}");
    let pool = DescriptorPool::decode(&*written.stdout).unwrap();
    let [rules, routes] =
        ["buf.validate.field", "google.api.http"].map(|name| pool.get_extension_by_name(name).unwrap());
    let files = pool.files().filter(|file| file.package_name() == PACKAGE);
    for file in files {
        assert!(file.file_descriptor_proto().source_code_info.is_some());
        for message in file
            .messages()
            .filter(|message| message.name().ends_with("Request"))
        {
            if let Some(lattice) = message.get_field_by_name("lattice") {
                assert!(lattice.options().has_extension(&rules), "{}", message.name());
            }
        }
        for method in file
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
        {
            assert_eq!(
                method.options().has_extension(&routes),
                !method.is_client_streaming()
            );
        }
    }
}

/// The number that a field has wherever it stands, by where it stands.
const NUMBERS: [(&str, &[(&str, i32)]); 3] = [
    ("Request", &[("lattice", 1)]),
    (
        "Mutation",
        &[
            ("request_id", 10),
            ("retry_age", 11),
            ("etag", 12),
            ("must_exist", 13),
            ("must_not_exist", 14),
            ("validate_only", 15),
            ("allow_missing", 16),
        ],
    ),
    ("Resource", &[("etag", 13), ("revision", 14), ("update_time", 15)]),
];

#[test]
fn shared_fields_have_the_same_numbers_everywhere() {
    const RESOURCES: [&str; 5] = [
        "Claims",
        "InterfaceLink",
        "LinkDefinition",
        "NamedConfig",
        "OciReference",
    ];
    let files = api::files();
    let mut seen = BTreeMap::<_, usize>::new();
    for message in files.iter().flat_map(|file| &file.message_type) {
        let is_mutation = message.field.iter().any(|field| field.name() == "request_id");
        let roles = [
            ("Request", message.name().ends_with("Request")),
            ("Mutation", is_mutation),
            ("Resource", RESOURCES.contains(&message.name())),
        ];
        for (role, _) in roles.into_iter().filter(|(_, plays)| *plays) {
            *seen.entry(role).or_default() += 1;
            let (_, numbers) = NUMBERS.iter().find(|(name, _)| *name == role).unwrap();
            for field in &message.field {
                if let Some((_, number)) = numbers.iter().find(|(name, _)| *name == field.name()) {
                    assert_eq!(field.number(), *number, "{}.{}", message.name(), field.name());
                }
            }
        }
        if is_mutation {
            let is_delete = message.name().starts_with("Delete");
            let wanted = numbers_of("Mutation").filter(|name| is_delete || *name != "allow_missing");
            for name in wanted.chain(["lattice"]) {
                assert!(
                    message.field.iter().any(|field| field.name() == name),
                    "{} lacks {name}",
                    message.name()
                );
            }
        }
    }
    assert_eq!(seen, [("Mutation", 10), ("Request", 30), ("Resource", 5)].into());
}

fn numbers_of(role: &str) -> impl Iterator<Item = &'static str> {
    let (_, numbers) = NUMBERS.iter().find(|(name, _)| *name == role).unwrap();
    numbers.iter().map(|(name, _)| *name)
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}
