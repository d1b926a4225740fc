//! Component → the numbers and layers OAP knows it by. `json` shows the same ones, so nothing here is of the wire.

use crate::trace::span::Component;

/// What kind of traffic a span is: it decides where OAP puts the peer of an Exit span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    Http,
    RpcFramework,
}

impl Layer {
    /// Its name on the wire and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "Http",
            Self::RpcFramework => "RPCFramework",
        }
    }
}

/// The number of `component` in OAP's component library. Only numbers that OAP 9.7.0 has: an unknown one would
/// show as `Unknown`.
pub const fn id(component: Component) -> i32 {
    match component {
        Component::GoHttpServer => 5004,
        Component::GoHttpClient => 5005,
        Component::Grpc => 23,
    }
}

/// The layer of the spans of `component`.
pub const fn layer(component: Component) -> Layer {
    match component {
        Component::GoHttpServer | Component::GoHttpClient => Layer::Http,
        Component::Grpc => Layer::RpcFramework,
    }
}
