//! A real OAP shows what it was sent: segments made by hand, the demo's services and Debian's Prometheus, both under
//! the probe.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail, ensure};
use proto::v3::{
    KeyStringValuePair, RefType, SegmentObject, SegmentReference, SpanLayer, SpanObject, SpanType,
    trace_segment_report_service_client::TraceSegmentReportServiceClient,
};
use tests::{
    client,
    graphql::{GraphQl, Span},
    kubernetes::Cluster,
    needs_kubernetes, needs_probe, needs_rpc,
    network::{Host, Networks},
    oap::{attach, attach_to, both_sides, eventually},
    pods::{self, NODE},
    rpc::{self, Row},
    scene::{Scene, truth_program},
    scrape::Scrape,
    skip,
    target::{Go, GoBuild, Load, Target},
};
use tonic::transport::Endpoint;
use xtask::oap::{Oap, Ports, REFERENCE};

/// One OAP for all tests of this file: a boot is the dearest part of them.
fn oap() -> MutexGuard<'static, Oap> {
    static SHARED: OnceLock<Mutex<Oap>> = OnceLock::new();
    let oap =
        SHARED.get_or_init(|| Mutex::new(Oap::start(REFERENCE, Ports::default()).expect("an OAP starts")));
    oap.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn hand_made_segments_are_joined_and_drawn() {
    assert_hand_made(&oap());
}

/// Segments as we mean to send them, made by hand: a trace id of 32 hex digits without dots, an exit span whose
/// peer is the address in the next entry span's reference.
fn assert_hand_made(oap: &Oap) {
    let graphql = GraphQl::new(oap.http);
    let trace_id = format!("{:032x}", now_ms() as u128 * 1_000_003);
    let front = HandMade::new(&trace_id, "hand-front", 1);
    let back = HandMade::new(&trace_id, "hand-back", 2);
    let peer = "127.0.0.1:7071";
    let segments = vec![
        front.segment(vec![
            front.entry("GET:/cart", vec![]),
            front.exit("GET:/stock", peer),
        ]),
        back.segment(vec![
            back.entry("GET:/stock", vec![front.reference("GET:/cart", peer)]),
        ]),
    ];
    send(oap, segments);

    eventually("the hand-made trace", || {
        let spans = graphql.trace(&trace_id)?;
        ensure!(spans.len() == 3, "{spans:?}");
        let exit = spans
            .iter()
            .find(|span| span.r#type == "Exit")
            .context("no exit span")?;
        let entry = spans
            .iter()
            .find(|span| span.service_code == "hand-back")
            .context("no second service")?;
        ensure!(
            exit.component == "GoHttpClient" && entry.component == "GoHttpServer",
            "{spans:?}"
        );
        ensure!(entry.refers_to(exit), "{entry:?} does not point to {exit:?}");
        let lines = graphql.topology()?;
        ensure!(
            lines.sides("hand-front", "hand-back") == both_sides(),
            "{lines:?}"
        );
        ensure!(
            lines.lines().contains(&("User".into(), "hand-front".into())),
            "{lines:?}"
        );
        ensure!(
            !lines.lines().contains(&("User".into(), "hand-back".into())),
            "{lines:?}"
        );
        // The address has become the service behind it.
        ensure!(!lines.nodes.iter().any(|node| node.name == peer), "{lines:?}");
        Ok(())
    });
    assert_eq!(oap.figure("trace_analysis_error_count", "").expect("figure"), 0.0);
    assert!(oap.figure("trace_in_latency_count", "grpc").expect("figure") >= 2.0);
}

#[test]
fn the_demo_is_drawn_and_its_traces_are_joined() {
    needs_probe!();
    assert_demo(&oap());
}

/// Two pods with a container's isolation, the probe outside: what a cluster's user sees.
#[test]
fn pods_are_drawn_under_the_names_they_have_in_the_cluster() {
    needs_probe!();
    needs_kubernetes!();
    let cluster = Cluster::start().expect("an API server starts");
    let shop = pods::Shop::open(&cluster, "shop").expect("a namespace");
    let networks = Networks::new().expect("two networks");
    let pair = shop.pair(&networks).expect("two pods");
    let oap = oap();
    let graphql = GraphQl::new(oap.http);
    let follow = shop.follow(&cluster.kubeconfig()).expect("flags");
    let mut flags: Vec<&str> = follow.iter().map(String::as_str).collect();
    flags.extend(["--property-labels", "tier"]);
    let _probe = attach(&oap, &flags).expect("the probe attaches");
    let (caller, callee) = ("gateway|shop|", "orders|shop|");
    eventually("the pods", || {
        networks.within(Host::Client, || {
            for id in 1..=5 {
                ensure!(pair.scene.ask("sync", id)?.status == 200);
            }
            Ok(())
        })?;
        let lines = graphql.topology()?;
        ensure!(lines.sides(caller, callee) == both_sides(), "{lines:?}");
        let instances = graphql.instances(&graphql.service_id(caller)?)?;
        let [instance] = &instances[..] else {
            bail!("{instances:?}")
        };
        ensure!(instance.name == "gateway-6d5f8-x7k2q", "{instance:?}");
        for (key, value) in [
            ("hostname", "contained"),
            ("namespace", "shop"),
            ("pod", "gateway-6d5f8-x7k2q"),
            ("node", NODE),
            ("container", "app"),
            ("image", "shop:1"),
            ("label:tier", "web"),
        ] {
            let told = instance
                .attributes
                .iter()
                .any(|it| it.name == key && it.value == value);
            ensure!(told, "{key} is not {value}: {instance:?}");
        }
        Ok(())
    });
}

/// The same once with the newest OAP that keeps its data in memory.
#[test]
fn a_newer_oap_shows_the_same() {
    if !skip::full() {
        skip::skip("OAP 10.1.0 only in the full run");
        return;
    }
    let oap = Oap::start("10.1.0", Ports::default()).expect("an OAP starts");
    assert_hand_made(&oap);
    needs_probe!();
    assert_demo(&oap);
}

#[test]
fn a_scrape_of_prometheus_is_drawn_and_joined() {
    needs_probe!();
    let oap = oap();
    let graphql = GraphQl::new(oap.http);
    let scrape = Scrape::start().expect("Prometheus scrapes");
    let _probe = attach_to(&oap, &scrape.pids()).expect("the probe attaches");
    let (caller, callee) = ("prometheus", "prometheus-node-exporter");
    eventually("the scrape", || {
        let lines = graphql.topology()?;
        ensure!(lines.sides(caller, callee) == both_sides(), "{lines:?}");
        let endpoints = graphql.endpoints(&graphql.service_id(callee)?)?;
        ensure!(
            endpoints.iter().any(|endpoint| endpoint.name == "GET:/metrics"),
            "{endpoints:?}"
        );
        let served = graphql.traces(&graphql.service_id(callee)?, &[])?;
        let trace_id = served
            .iter()
            .flat_map(|brief| &brief.trace_ids)
            .next()
            .context("no trace")?;
        let spans = graphql.trace(trace_id)?;
        let operation = "GET:/metrics";
        let [exit, entry] = sorted(
            &spans,
            &[(caller, "Exit", operation), (callee, "Entry", operation)],
        )?;
        ensure!(
            exit.peer == scrape.exporter.to_string() && entry.refers_to(exit),
            "{spans:?}"
        );
        Ok(())
    });
    assert_eq!(oap.figure("trace_analysis_error_count", "").expect("figure"), 0.0);
}

#[test]
fn a_row_of_grpc_services_is_drawn() {
    needs_rpc!();
    let oap = oap();
    let graphql = GraphQl::new(oap.http);
    let names = ["grpc-front", "grpc-middle", "grpc-back"];
    let [front, middle, back] = names;
    let row = Row::named(names).expect("the services start");
    let _probe = attach_to(&oap, &row.pids()).expect("the probe attaches");
    let mut id = 0;
    let mut ask = || {
        id += 1;
        row.ask("relays", id)
    };
    ask().expect("an answer");
    let methods = ["Unary", "Upload", "Download", "Chat"].map(|method| format!("demo.Echo.{method}"));

    eventually("the services", || {
        for service in [middle, back] {
            let found = graphql.endpoints(&graphql.service_id(service)?)?;
            let found: BTreeSet<&str> = found.iter().map(|endpoint| endpoint.name.as_str()).collect();
            ensure!(
                found == methods.iter().map(String::as_str).collect(),
                "{service}: {found:?}"
            );
        }
        Ok(())
    });
    eventually("the map", || {
        // OAP learns from the first calls which service is behind an address.
        ask()?;
        let map = graphql.topology()?;
        for (caller, callee) in [(front, middle), (middle, back)] {
            if rpc::PROPAGATED {
                ensure!(map.sides(caller, callee) == both_sides(), "{map:?}");
                let grpc = BTreeSet::from(["GRPC".to_owned()]);
                let [asks, answers] = map.components(caller, callee);
                ensure!(
                    asks.is_superset(&grpc) && answers == grpc,
                    "{caller} to {callee}: {map:?}"
                );
            } else {
                ensure!(
                    map.lines()
                        .iter()
                        .any(|(from, to)| from == caller && to.starts_with("127.0.0.1:")),
                    "{map:?}"
                );
            }
        }
        Ok(())
    });
    eventually("a trace", || {
        let served = graphql.traces(&graphql.service_id(front)?, &[("http.status_code", "200")])?;
        let trace_id = served
            .iter()
            .flat_map(|brief| &brief.trace_ids)
            .next()
            .context("no trace")?;
        let spans = graphql.trace(trace_id)?;
        let of = |service: &str, kind: &str| -> Vec<&Span> {
            let wanted = |span: &&Span| span.service_code == service && span.r#type == kind;
            spans.iter().filter(wanted).collect()
        };
        let calls = of(front, "Exit");
        ensure!(calls.len() == methods.len(), "{spans:?}");
        for (call, method) in calls.iter().zip(&methods) {
            ensure!(
                (&call.endpoint_name, call.component.as_str(), call.layer.as_str())
                    == (method, "GRPC", "RPCFramework"),
                "{call:?}"
            );
            ensure!(
                call.peer == row.middle.addresses.rpc && !call.is_error,
                "{call:?}"
            );
            ensure!(call.tag("rpc.status_code") == Some("OK"), "{call:?}");
        }
        if rpc::PROPAGATED {
            ensure!(
                spans.len() == 1 + 4 * methods.len(),
                "{} spans: {spans:?}",
                spans.len()
            );
            for (caller, callee) in [(front, middle), (middle, back)] {
                let calls = of(caller, "Exit");
                for served in of(callee, "Entry") {
                    ensure!(served.component == "GRPC", "{served:?}");
                    let call = calls.iter().find(|call| served.refers_to(call));
                    let call = call.with_context(|| format!("nobody sent {served:?}"))?;
                    ensure!(call.endpoint_name == served.endpoint_name, "{call:?} {served:?}");
                }
            }
        }
        Ok(())
    });
    assert_eq!(oap.figure("trace_analysis_error_count", "").expect("figure"), 0.0);
}

#[test]
fn a_program_that_only_calls_and_ends_before_a_heartbeat_is_listed() {
    needs_probe!();
    let oap = oap();
    let graphql = GraphQl::new(oap.http);
    let scene = Scene::start().expect("the services start");
    // Named by its program, and traced alone: nobody else tells OAP of it.
    let program = truth_program().expect("the program is built");
    let name = program
        .file_name()
        .expect("a program has a name")
        .to_string_lossy();
    let load = Load::start(&program, &scene.front, 20, 3.0, "leaf").expect("the load starts");
    let probe = attach_to(&oap, &[load.pid()]).expect("the probe attaches");
    let summary = load.finish().expect("the load ends");
    assert!(summary.seconds < 15.0, "a heartbeat may have come: {summary:?}");
    probe.stop().expect("the probe ends");
    eventually("the list of services", || {
        let instances = graphql.instances(&graphql.service_id(&name)?)?;
        ensure!(instances.len() == 1, "{instances:?}");
        Ok(())
    });
}

/// The demo's services under the probe, and all that OAP must know of them.
fn assert_demo(oap: &Oap) {
    if let Err(error) = Shop::fetch() {
        skip::skip(&format!("{error:#}"));
        return;
    }
    let graphql = GraphQl::new(oap.http);
    let shop = Shop::start().expect("the demo's services start");
    let pids = [shop.gateway.pid(), shop.users.pid(), shop.orders.pid()];
    let _probe = attach_to(oap, &pids).expect("the probe attaches");
    for user in 1..=20 {
        let path = format!("/profile?user={user}");
        assert_eq!(client::get(&shop.address, &path).expect("an answer").status, 200);
    }
    // The order service answers UNAVAILABLE, the gateway 502.
    assert_eq!(
        client::get(&shop.address, "/recommendations?user=7")
            .expect("an answer")
            .status,
        502
    );

    eventually("the services", || {
        for (service, endpoints) in [
            ("gateway", &["GET:/profile", "GET:/recommendations"] as &[&str]),
            ("user-service", &["GET:/users/{id}"]),
            (
                "order-service",
                &["GET:/orders", "shop.Orders.NextDelivery", "shop.Orders.Recommend"],
            ),
        ] {
            let id = graphql.service_id(service)?;
            let instances = graphql.instances(&id)?;
            ensure!(
                instances.len() == 1 && instances.iter().all(|found| found.language == "GO"),
                "{instances:?}"
            );
            let found = graphql.endpoints(&id)?;
            // Twenty users are one endpoint, not twenty.
            let found: BTreeSet<&str> = found.iter().map(|found| found.name.as_str()).collect();
            ensure!(
                found == endpoints.iter().copied().collect(),
                "{service}: {found:?}"
            );
        }
        Ok(())
    });
    eventually("the map", || {
        // OAP learns from the first calls which service is behind an address. Instances are asked for by their
        // services, so only later calls show their client's side.
        client::get(&shop.address, "/profile?user=1")?;
        let lines = graphql.topology()?;
        let on_the_way = [("gateway", "user-service"), ("user-service", "order-service")];
        for (caller, callee) in on_the_way.into_iter().chain([("gateway", "order-service")]) {
            ensure!(
                lines.sides(caller, callee) == both_sides(),
                "{caller} to {callee}: {lines:?}"
            );
        }
        let [asks, answers] = lines.components("gateway", "order-service");
        let grpc = BTreeSet::from(["GRPC".to_owned()]);
        ensure!(asks.is_superset(&grpc) && answers.is_superset(&grpc), "{lines:?}");
        for (caller, callee) in on_the_way {
            let instances =
                graphql.instance_topology(&graphql.service_id(caller)?, &graphql.service_id(callee)?)?;
            let calls = instances.calls.iter();
            let sides: BTreeSet<String> = calls.flat_map(|call| call.detect_points.clone()).collect();
            ensure!(
                sides == both_sides(),
                "instances of {caller} and {callee}: {instances:?}"
            );
        }
        let all = lines.lines();
        ensure!(all.contains(&("User".into(), "gateway".into())), "{all:?}");
        for inner in ["user-service", "order-service"] {
            ensure!(
                !all.contains(&("User".into(), inner.into())),
                "{inner} was called by a user: {all:?}"
            );
        }
        // All addresses have become services, as far as these ask them: others share this OAP.
        let ours = ["gateway", "user-service", "order-service"];
        let mut asked = all.iter().filter(|(caller, _)| ours.contains(&caller.as_str()));
        ensure!(
            !asked.any(|(_, callee)| callee.starts_with("127.0.0.1:")),
            "{all:?}"
        );
        Ok(())
    });
    eventually("a trace", || {
        let gateway = graphql.service_id("gateway")?;
        let traces = graphql.traces(&gateway, &[("http.status_code", "200")])?;
        ensure!(traces.len() >= 20, "{} traces of 20", traces.len());
        let trace_id = traces
            .iter()
            .flat_map(|brief| &brief.trace_ids)
            .next()
            .context("no trace")?;
        let spans = graphql.trace(trace_id)?;
        let [
            served,
            asked,
            user,
            asked_orders,
            orders,
            asked_delivery,
            delivery,
        ] = sorted(
            &spans,
            &[
                ("gateway", "Entry", "GET:/profile"),
                ("gateway", "Exit", "GET:/users/{id}"),
                ("user-service", "Entry", "GET:/users/{id}"),
                ("user-service", "Exit", "GET:/orders"),
                ("order-service", "Entry", "GET:/orders"),
                ("gateway", "Exit", "shop.Orders.NextDelivery"),
                ("order-service", "Entry", "shop.Orders.NextDelivery"),
            ],
        )?;
        ensure!(
            served.refs.is_empty() && served.parent_span_id == -1,
            "{served:?}"
        );
        ensure!(
            user.refers_to(asked) && orders.refers_to(asked_orders) && delivery.refers_to(asked_delivery),
            "{spans:?}"
        );
        ensure!(
            asked.parent_span_id == served.span_id
                && asked_delivery.parent_span_id == served.span_id
                && asked_orders.parent_span_id == user.span_id,
            "{spans:?}"
        );
        ensure!(
            served.component == "GoHttpServer" && asked.component == "GoHttpClient",
            "{spans:?}"
        );
        for span in &spans {
            let (layer, tag, success) = match span.endpoint_name.starts_with("shop.Orders") {
                true => ("RPCFramework", "rpc.status_code", "OK"),
                false => ("Http", "http.status_code", "200"),
            };
            ensure!(
                span.layer == layer && span.tag(tag) == Some(success) && !span.is_error,
                "{span:?}"
            );
        }
        Ok(())
    });
    eventually("the error", || {
        let failed = graphql.traces(
            &graphql.service_id("order-service")?,
            &[("rpc.status_code", "UNAVAILABLE")],
        )?;
        let [brief] = failed.as_slice() else {
            anyhow::bail!("not one error: {failed:?}")
        };
        ensure!(brief.is_error, "{brief:?}");
        Ok(())
    });
    assert_eq!(oap.figure("trace_analysis_error_count", "").expect("figure"), 0.0);
}

/// The spans of a trace in the wanted order; an error if there are others or too few.
fn sorted<'s, const N: usize>(spans: &'s [Span], wanted: &[(&str, &str, &str); N]) -> Result<[&'s Span; N]> {
    ensure!(spans.len() == N, "{} spans, not {N}: {spans:?}", spans.len());
    let found: Vec<&Span> = wanted
        .iter()
        .filter_map(|(service, kind, operation)| {
            spans.iter().find(|span| {
                span.service_code == *service && span.r#type == *kind && span.endpoint_name == *operation
            })
        })
        .collect();
    found
        .try_into()
        .map_err(|_unsorted| anyhow::anyhow!("not {wanted:?} but {spans:?}"))
}

/// The demo: gateway, user service, order service.
struct Shop {
    /// Of the gateway.
    address: String,
    gateway: Target,
    users: Target,
    orders: Target,
}

impl Shop {
    /// Gets the modules that its programs are made of. The error says why they cannot be had.
    fn fetch() -> Result<()> {
        GoBuild::new("demo").fetch(&Go::system()?)
    }

    fn start() -> Result<Self> {
        let go = Go::system()?;
        let start = |name: &str, next: &[&str]| -> Result<(Target, String)> {
            let program = GoBuild::new(&format!("demo/{name}")).build(&go)?;
            let target = Target::start(&program, &[&["-listen", "127.0.0.1:0"], next].concat())?;
            let address = target.address()?;
            Ok((target, address))
        };
        let (orders, orders_at) = start("order-service", &["-listen-rpc", "127.0.0.1:0"])?;
        let rpc = orders.line()?;
        let orders_rpc = rpc.rsplit(' ').next().context("where it serves gRPC")?.to_owned();
        let orders_url = format!("http://{orders_at}");
        let (users, users_at) = start("user-service", &["-orders", &orders_url])?;
        let users_url = format!("http://{users_at}");
        let (gateway, address) = start("gateway", &["-users", &users_url, "-orders", &orders_rpc])?;
        Ok(Self {
            address,
            gateway,
            users,
            orders,
        })
    }
}

struct HandMade {
    trace_id: String,
    segment_id: String,
    service: String,
    start_ms: i64,
}

impl HandMade {
    fn new(trace_id: &str, service: &str, number: u32) -> Self {
        let segment_id = format!("{number:08x}{}", trace_id.get(8..).expect("32 digits"));
        Self {
            trace_id: trace_id.into(),
            segment_id,
            service: service.into(),
            start_ms: now_ms(),
        }
    }

    fn instance(&self) -> String {
        format!("{}-1@here", self.service)
    }

    fn segment(&self, spans: Vec<SpanObject>) -> SegmentObject {
        SegmentObject {
            trace_id: self.trace_id.clone(),
            trace_segment_id: self.segment_id.clone(),
            spans,
            service: self.service.clone(),
            service_instance: self.instance(),
            is_size_limited: false,
        }
    }

    fn entry(&self, operation: &str, refs: Vec<SegmentReference>) -> SpanObject {
        SpanObject {
            span_id: 0,
            parent_span_id: -1,
            start_time: self.start_ms,
            end_time: self.start_ms + 9,
            refs,
            operation_name: operation.into(),
            span_type: SpanType::Entry.into(),
            span_layer: SpanLayer::Http.into(),
            component_id: 5004,
            tags: tags(&[
                ("http.method", "GET"),
                ("url", "127.0.0.1/"),
                ("http.status_code", "200"),
            ]),
            ..SpanObject::default()
        }
    }

    fn exit(&self, operation: &str, peer: &str) -> SpanObject {
        SpanObject {
            span_id: 1,
            parent_span_id: 0,
            start_time: self.start_ms + 1,
            end_time: self.start_ms + 8,
            operation_name: operation.into(),
            peer: peer.into(),
            span_type: SpanType::Exit.into(),
            span_layer: SpanLayer::Http.into(),
            component_id: 5005,
            tags: tags(&[("http.method", "GET"), ("http.status_code", "200")]),
            ..SpanObject::default()
        }
    }

    /// What the callee of this segment's exit span says of it.
    fn reference(&self, endpoint: &str, peer: &str) -> SegmentReference {
        SegmentReference {
            ref_type: RefType::CrossProcess.into(),
            trace_id: self.trace_id.clone(),
            parent_trace_segment_id: self.segment_id.clone(),
            parent_span_id: 1,
            parent_service: self.service.clone(),
            parent_service_instance: self.instance(),
            parent_endpoint: endpoint.into(),
            network_address_used_at_peer: peer.into(),
        }
    }
}

fn tags(pairs: &[(&str, &str)]) -> Vec<KeyStringValuePair> {
    pairs
        .iter()
        .map(|(key, value)| KeyStringValuePair {
            key: (*key).into(),
            value: (*value).into(),
        })
        .collect()
}

fn send(oap: &Oap, segments: Vec<SegmentObject>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", oap.grpc)).expect("an address");
        let channel = endpoint.connect().await.expect("OAP listens");
        TraceSegmentReportServiceClient::new(channel)
            .collect(tokio_stream::iter(segments))
            .await
            .expect("OAP takes the segments");
    });
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test stands for an agent and stamps its own spans"
)]
fn now_ms() -> i64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    i64::try_from(now.as_millis()).expect("not too far after")
}
