//! Requests that are refused when they come.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::{GOODS, healthy, message, refusal, says_all, with};
use crate::world::{World, ensure};

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_wrong_are_refused_by_field_and_the_rest_goes_on() -> Result<()> {
    let world = healthy().await?;
    connectors(&world).await?;
    views(&world).await?;
    what_is_no_request(&world).await?;
    let listed = world
        .api()
        .connect("GET", "/connectors", None)
        .await?
        .ok()?;
    ensure(listed == json!(["good", "goods-sink"]), || {
        format!("a refused request left something behind: {listed}")
    })?;
    world.delivers(&GOODS).await
}

async fn connectors(world: &World) -> Result<()> {
    let slot = format!("good_{}", world.department.name);
    let cases: [(&str, Map<String, Value>, &[&str]); 6] = [
        (
            "clear",
            with(
                world.source("clear", "dept\\.good"),
                &[("database.password", "hunter2")],
            ),
            &["database.password: ", "${file:", "${directory:", "${env:"],
        ),
        (
            "clear-sink",
            with(
                world.sink("goods", "in_clear"),
                &[("connection.password", "hunter2")],
            ),
            &["connection.password: ", "${file:", "${directory:", "${env:"],
        ),
        (
            "second-prefix",
            with(
                world.source("good", "dept\\.other"),
                &[("slot.name", "another_slot")],
            ),
            &["topic.prefix: ", "is used by connector \"good\" already"],
        ),
        (
            "second-slot",
            with(
                world.source("second", "dept\\.other"),
                &[("slot.name", &slot)],
            ),
            &[
                "slot.name: ",
                &format!("slot \"{slot}\" of this database is used by connector \"good\" already"),
            ],
        ),
        (
            "renamed",
            with(
                world.source("renamed", "dept\\.good"),
                &[("time.precision.mode", "connect")],
            ),
            &["time.precision.mode: "],
        ),
        (
            "misspelt",
            with(
                world.source("misspelt", "dept\\.good"),
                &[("table.inclde.list", "x")],
            ),
            &[
                "table.inclde.list: ",
                "did you mean \"table.include.list\"?",
            ],
        ),
    ];
    for (name, config, says) in cases {
        let text = refusal(world, name, config).await?;
        says_all(&text, says).with_context(|| name.to_owned())?;
        ensure(!text.contains("hunter2"), || {
            format!("the refusal repeats the password: {text}")
        })?;
    }
    Ok(())
}

async fn views(world: &World) -> Result<()> {
    let cases = [
        (
            "where",
            json!("nmae = 'x'"),
            ["where: ", "\"nmae\"", "dept.good"],
        ),
        ("where", json!("id LIKE 'x'"), ["where: ", "LIKE", "bigint"]),
        (
            "columns",
            json!([{ "name": "phone" }]),
            ["columns[0]", "\"phone\"", "dept.good"],
        ),
        (
            "source",
            json!({ "topic": "no.such.table" }),
            [
                "source.topic: ",
                "no captured table has the topic \"no.such.table\"",
                "a source connector must capture it first",
            ],
        ),
    ];
    for (field, value, says) in cases {
        let mut document = GOODS.document(world);
        document["name"] = json!("wrong");
        document[field] = value;
        let answer = world
            .api()
            .platform("POST", "/api/v1/views", Some(document))
            .await?;
        says_all(&message(answer.status, &answer.body)?, &says)
            .with_context(|| field.to_owned())?;
    }
    Ok(())
}

/// What is not even a request: malformed JSON, a path that is no UTF-8, a body without end, no token.
async fn what_is_no_request(world: &World) -> Result<()> {
    let api = world.api();
    let (connect, platform, registry) = (&api.connect_url, &api.platform_url, &api.registry_url);
    let too_large = format!("{{\"name\": \"{}\"}}", "x".repeat(5 << 20));
    let cases = [
        (
            "POST",
            format!("{connect}/connectors"),
            "{\"name\": ",
            "malformed JSON",
        ),
        (
            "POST",
            format!("{platform}/api/v1/views"),
            "{\"name\": ",
            "malformed JSON",
        ),
        (
            "POST",
            format!("{registry}/subjects/x/versions"),
            "{\"schema\": ",
            "malformed JSON",
        ),
        (
            "GET",
            format!("{connect}/connectors/%FF"),
            "",
            "UTF-8 in `connector`",
        ),
        (
            "GET",
            format!("{platform}/api/v1/views/%FF"),
            "",
            "UTF-8 in `view`",
        ),
        (
            "GET",
            format!("{registry}/subjects/%FF/versions"),
            "",
            "UTF-8 in `subject`",
        ),
        (
            "GET",
            format!("{connect}/connectors/%zz"),
            "",
            "Connector %zz not found",
        ),
        (
            "POST",
            format!("{connect}/connectors"),
            &too_large,
            "larger than 4 MiB",
        ),
        (
            "POST",
            format!("{platform}/api/v1/views"),
            &too_large,
            "larger than 4 MiB",
        ),
        (
            "POST",
            format!("{registry}/subjects/x/versions"),
            &too_large,
            "larger than 4 MiB",
        ),
    ];
    let client = reqwest::Client::new();
    for (method, url, body, says) in cases {
        let request = client.request(method.parse()?, &url);
        let response = request
            .bearer_auth(api.token())
            .header("content-type", "application/json")
            .body(body.to_owned())
            .send()
            .await?;
        let status = response.status().as_u16();
        let answer: Value = response.json().await.with_context(|| url.clone())?;
        let text = message(status, &answer).with_context(|| url.clone())?;
        says_all(&text, &[says]).with_context(|| url.clone())?;
    }
    let anonymous = client.get(format!("{connect}/connectors")).send().await?;
    let status = anonymous.status().as_u16();
    says_all(
        &message(status, &anonymous.json().await?)?,
        &["a token is needed"],
    )
}
