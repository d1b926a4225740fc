//! What a real OAP shows: services, topology and traces, asked over GraphQL.
//!
//! Bias: no more fields than a test looks at, and an answer with `errors` is an error here.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use xtask::http;

/// Where an OAP answers GraphQL.
#[derive(Clone, Copy, Debug)]
pub struct GraphQl {
    server: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Named {
    pub id: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Service {
    pub id: String,
    pub name: String,
    pub layers: Vec<String>,
    /// False for one that OAP has only concluded from a peer.
    pub normal: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct KeyValue {
    pub key: String,
    pub value: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Attribute {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Instance {
    pub id: String,
    pub name: String,
    pub language: String,
    pub attributes: Vec<Attribute>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub id: String,
    pub name: String,
    pub r#type: Option<String>,
    pub is_real: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    pub source: String,
    pub target: String,
    pub detect_points: BTreeSet<String>,
    /// What each side speaks. Only of the whole map.
    #[serde(default)]
    pub source_components: BTreeSet<String>,
    #[serde(default)]
    pub target_components: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Topology {
    pub nodes: Vec<Node>,
    pub calls: Vec<Call>,
}

impl Topology {
    /// The sides from which the call of `source` to `target`, both names, was seen: `CLIENT`, `SERVER`.
    pub fn sides(&self, source: &str, target: &str) -> BTreeSet<String> {
        self.between(source, target)
            .flat_map(|call| call.detect_points.iter().cloned())
            .collect()
    }

    /// What either side speaks in the call of `source` to `target`, both names.
    pub fn components(&self, source: &str, target: &str) -> [BTreeSet<String>; 2] {
        let all = |of: fn(&Call) -> &BTreeSet<String>| {
            let calls = self.between(source, target);
            calls.flat_map(|call| of(call).iter().cloned()).collect()
        };
        [
            all(|call| &call.source_components),
            all(|call| &call.target_components),
        ]
    }

    fn between<'t>(&'t self, source: &'t str, target: &'t str) -> impl Iterator<Item = &'t Call> {
        let is = |id: &str, name: &str| self.nodes.iter().any(|node| node.id == id && node.name == name);
        self.calls
            .iter()
            .filter(move |call| is(&call.source, source) && is(&call.target, target))
    }

    /// All lines, by name, for messages and for tests that want no others.
    pub fn lines(&self) -> BTreeSet<(String, String)> {
        let name = |id: &str| {
            let node = self.nodes.iter().find(|node| node.id == id);
            node.map_or_else(|| id.to_owned(), |node| node.name.clone())
        };
        self.calls
            .iter()
            .map(|call| (name(&call.source), name(&call.target)))
            .collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Brief {
    pub segment_id: String,
    pub endpoint_names: Vec<String>,
    pub is_error: bool,
    pub trace_ids: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    pub trace_id: String,
    pub parent_segment_id: String,
    pub parent_span_id: i32,
    pub r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    pub trace_id: String,
    pub segment_id: String,
    pub span_id: i32,
    pub parent_span_id: i32,
    pub refs: Vec<Reference>,
    pub service_code: String,
    pub service_instance_name: String,
    pub start_time: i64,
    pub end_time: i64,
    pub endpoint_name: String,
    pub r#type: String,
    pub peer: String,
    pub component: String,
    pub is_error: bool,
    pub layer: String,
    pub tags: Vec<KeyValue>,
}

impl Span {
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find(|tag| tag.key == key)?.value.as_deref()
    }

    /// Whether its first reference is to `parent`.
    pub fn refers_to(&self, parent: &Self) -> bool {
        self.refs.first().is_some_and(|reference| {
            reference.r#type == "CROSS_PROCESS"
                && reference.trace_id == parent.trace_id
                && reference.parent_segment_id == parent.segment_id
                && reference.parent_span_id == parent.span_id
        })
    }
}

impl GraphQl {
    pub fn new(server: SocketAddr) -> Self {
        Self { server }
    }

    pub fn services(&self) -> Result<Vec<Service>> {
        let query = "query($l:String!){found:listServices(layer:$l){id name layers normal}}";
        self.ask(query, json!({"l": "GENERAL"}))
    }

    /// The id of the service `name`; an error if OAP does not know it.
    pub fn service_id(&self, name: &str) -> Result<String> {
        let services = self.services()?;
        let service = services.iter().find(|service| service.name == name);
        let service = service.with_context(|| format!("OAP knows no service {name} but {services:?}"))?;
        Ok(service.id.clone())
    }

    pub fn instances(&self, service_id: &str) -> Result<Vec<Instance>> {
        let query = "query($s:ID!,$d:Duration!){found:listInstances(duration:$d,serviceId:$s)\
                     {id name language attributes{name value}}}";
        self.ask(query, json!({"s": service_id, "d": self.lately()?}))
    }

    pub fn endpoints(&self, service_id: &str) -> Result<Vec<Named>> {
        let query = "query($s:ID!){found:findEndpoint(serviceId:$s,keyword:\"\",limit:100){id name}}";
        self.ask(query, json!({"s": service_id}))
    }

    /// The whole map.
    pub fn topology(&self) -> Result<Topology> {
        let query = "query($d:Duration!){found:getGlobalTopology(duration:$d)\
                     {nodes{id name type isReal} \
                     calls{source target detectPoints sourceComponents targetComponents}}}";
        self.ask(query, json!({"d": self.lately()?}))
    }

    /// Which instances of one service call which of the other.
    pub fn instance_topology(&self, client_id: &str, server_id: &str) -> Result<Topology> {
        let query = "query($a:ID!,$b:ID!,$d:Duration!){found:getServiceInstanceTopology(\
                     clientServiceId:$a,serverServiceId:$b,duration:$d)\
                     {nodes{id name type isReal} calls{source target detectPoints}}}";
        self.ask(
            query,
            json!({"a": client_id, "b": server_id, "d": self.lately()?}),
        )
    }

    /// What leads to and from an endpoint.
    pub fn endpoint_dependencies(&self, endpoint_id: &str) -> Result<Topology> {
        let query = "query($e:ID!,$d:Duration!){found:getEndpointDependencies(endpointId:$e,duration:$d)\
                     {nodes{id name type isReal} calls{source target detectPoints}}}";
        self.ask(query, json!({"e": endpoint_id, "d": self.lately()?}))
    }

    /// The latest segments of a service that carry all these tags.
    pub fn traces(&self, service_id: &str, tags: &[(&str, &str)]) -> Result<Vec<Brief>> {
        #[derive(Deserialize)]
        struct Found {
            traces: Vec<Brief>,
        }
        let query = "query($c:TraceQueryCondition){found:queryBasicTraces(condition:$c)\
                     {traces{segmentId endpointNames isError traceIds}}}";
        let tags: Vec<Value> = tags
            .iter()
            .map(|(key, value)| json!({"key": key, "value": value}))
            .collect();
        let condition = json!({
            "serviceId": service_id,
            "queryDuration": self.lately()?,
            "traceState": "ALL",
            "queryOrder": "BY_START_TIME",
            "paging": {"pageNum": 1, "pageSize": 100},
            "tags": tags,
        });
        Ok(self.ask::<Found>(query, json!({"c": condition}))?.traces)
    }

    /// All spans of a trace.
    pub fn trace(&self, trace_id: &str) -> Result<Vec<Span>> {
        #[derive(Deserialize)]
        struct Found {
            spans: Vec<Span>,
        }
        let query = "query($t:ID!){found:queryTrace(traceId:$t){spans{traceId segmentId spanId parentSpanId \
                     refs{traceId parentSegmentId parentSpanId type} serviceCode serviceInstanceName startTime \
                     endTime endpointName type peer component isError layer tags{key value}}}}";
        Ok(self.ask::<Found>(query, json!({"t": trace_id}))?.spans)
    }

    /// The last quarter of an hour by the server's own clock, as it wants to be told.
    fn lately(&self) -> Result<Value> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct TimeInfo {
            timezone: String,
            current_timestamp: i64,
        }
        let time: TimeInfo = self.ask("{found:getTimeInfo{timezone currentTimestamp}}", json!({}))?;
        let now = time.current_timestamp / 60_000 + zone_minutes(&time.timezone)?;
        Ok(json!({"start": minute_text(now - 15), "end": minute_text(now + 1), "step": "MINUTE"}))
    }

    /// Sends a query whose only field is called `found`.
    fn ask<T: DeserializeOwned>(&self, query: &str, variables: Value) -> Result<T> {
        let request = json!({"query": query, "variables": variables}).to_string();
        let answer = http::post_json(self.server, "/graphql", &request)?;
        ensure!(
            answer.status == 200,
            "OAP answered {}: {}",
            answer.status,
            answer.body
        );
        found(&answer.body).with_context(|| format!("ask OAP {query}"))
    }
}

fn found<T: DeserializeOwned>(answer: &str) -> Result<T> {
    let mut parsed: Value = serde_json::from_str(answer).with_context(|| format!("not JSON: {answer}"))?;
    let refused = parsed.get("errors").is_some_and(|errors| !errors.is_null());
    ensure!(!refused, "OAP refuses: {answer}");
    let found = parsed
        .pointer_mut("/data/found")
        .map(Value::take)
        .context("the answer holds no data")?;
    serde_json::from_value(found).with_context(|| format!("unexpected: {answer}"))
}

/// `+0130` is 90.
fn zone_minutes(zone: &str) -> Result<i64> {
    let wrong = || format!("the time zone {zone:?}");
    let number: i64 = zone.parse().with_context(wrong)?;
    Ok(number / 100 * 60 + number % 100)
}

/// `2026-11-22 1105`, from the minutes since 1970.
fn minute_text(minutes: i64) -> String {
    let (days, minute) = (minutes.div_euclid(1440), minutes.rem_euclid(1440));
    // Days since 1 March of the year 0: leap days then end the year, and the months follow one formula.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}{:02}",
        minute / 60,
        minute % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_told_as_oap_wants_them() {
        assert_eq!(minute_text(0), "1970-01-01 0000");
        assert_eq!(minute_text(1_795_347_176 / 60), "2026-11-22 1132");
        assert_eq!(minute_text(951_782_400 / 60 + 61), "2000-02-29 0101");
        assert_eq!(minute_text(1_704_067_140 / 60), "2023-12-31 2359");
        assert_eq!(zone_minutes("+0000").expect("zone"), 0);
        assert_eq!(zone_minutes("-0330").expect("zone"), -210);
        assert_eq!(zone_minutes("+0130").expect("zone"), 90);
        assert!(zone_minutes("UTC").is_err());
    }

    #[test]
    fn a_refusal_and_a_strange_answer_are_errors() {
        let refused = found::<Vec<Named>>(r#"{"errors":[{"message":"no such field"}],"data":null}"#);
        assert!(format!("{:#}", refused.expect_err("refused")).contains("no such field"));
        assert!(found::<Vec<Named>>(r#"{"data":{"found":[{"id":1}]}}"#).is_err());
        assert!(found::<Vec<Named>>("<html>").is_err());
        let named = found::<Vec<Named>>(r#"{"data":{"found":[{"id":"a","name":"b"}]}}"#).expect("named");
        assert_eq!(
            named,
            [Named {
                id: "a".into(),
                name: "b".into()
            }]
        );
    }

    #[test]
    fn a_call_seen_from_two_sides_may_come_in_two_lines() {
        let topology: Topology = serde_json::from_value(json!({
            "nodes": [
                {"id": "1", "name": "shop", "type": null, "isReal": true},
                {"id": "2", "name": "stock", "type": "GoHttpServer", "isReal": true},
            ],
            "calls": [
                {"source": "1", "target": "2", "detectPoints": ["CLIENT"], "sourceComponents": ["GRPC"]},
                {"source": "1", "target": "2", "detectPoints": ["SERVER"]},
            ],
        }))
        .expect("topology");
        assert_eq!(
            topology.sides("shop", "stock"),
            BTreeSet::from(["CLIENT".into(), "SERVER".into()])
        );
        assert!(topology.sides("stock", "shop").is_empty());
        assert_eq!(
            topology.components("shop", "stock"),
            [BTreeSet::from(["GRPC".into()]), BTreeSet::new()]
        );
        assert_eq!(
            topology.lines(),
            BTreeSet::from([("shop".into(), "stock".into())])
        );
    }
}
