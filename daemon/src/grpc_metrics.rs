//! What a program's gRPC servers count, named as by go-grpc-middleware, whose
//! metrics Buildbarn's programs have.
//!
//! Names that no service here has are counted as `unknown`: callers choose them, and
//! there is no end of them. A name counts as known once a call of it was answered
//! with anything but UNIMPLEMENTED.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::MetricConstructor;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::metrics::{Counter, Family, Histogram, Metrics, code_name};

/// Methods whose answers or requests are streams; all others are unary.
const STREAMS: [(&str, &str); 7] = [
    (
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/GetTree",
        "server_stream",
    ),
    (
        "/build.bazel.remote.execution.v2.Execution/Execute",
        "server_stream",
    ),
    (
        "/build.bazel.remote.execution.v2.Execution/WaitExecution",
        "server_stream",
    ),
    ("/google.bytestream.ByteStream/Read", "server_stream"),
    ("/google.bytestream.ByteStream/Write", "client_stream"),
    ("/grpc.health.v1.Health/Watch", "server_stream"),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "bidi_stream",
    ),
];

/// The boundaries that Buildbarn has: powers of two, from a millisecond to more
/// than an hour.
#[derive(Clone)]
struct Durations;

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        Histogram::new(crate::metrics::exponential_buckets(0.001, 2.0, 23))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    grpc_type: &'static str,
    grpc_service: String,
    grpc_method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    grpc_type: &'static str,
    grpc_service: String,
    grpc_method: String,
    grpc_code: &'static str,
}

impl Method {
    fn of(path: &str) -> Self {
        let (service, method) = path
            .strip_prefix('/')
            .and_then(|path| path.split_once('/'))
            .unwrap_or(("unknown", "unknown"));
        let stream = STREAMS.iter().find(|(name, _)| *name == path);
        Self {
            grpc_type: stream.map_or("unary", |(_, kind)| kind),
            grpc_service: service.into(),
            grpc_method: method.into(),
        }
    }

    fn handled(&self, code: Code) -> Handled {
        Handled {
            grpc_type: self.grpc_type,
            grpc_service: self.grpc_service.clone(),
            grpc_method: self.grpc_method.clone(),
            grpc_code: code_name(code),
        }
    }
}

/// The metrics; a [`Layer`] of a server.
#[derive(Clone, Debug)]
pub(crate) struct GrpcMetrics(Arc<State>);

#[derive(Debug)]
struct State {
    known: RwLock<HashSet<String>>,
    started: Family<Method, Counter>,
    handled: Family<Handled, Counter>,
    durations: Family<Method, Histogram, Durations>,
}

impl GrpcMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let state = State {
            known: RwLock::default(),
            started: Family::default(),
            handled: Family::default(),
            durations: Family::new_with_constructor(Durations),
        };
        metrics.register(
            "grpc_server_started",
            "Calls that the server began to serve",
            state.started.clone(),
        );
        metrics.register(
            "grpc_server_handled",
            "Calls that the server ended, whatever the outcome",
            state.handled.clone(),
        );
        metrics.register(
            "grpc_server_handling_seconds",
            "Time from a call's start to its end at the server",
            state.durations.clone(),
        );
        Self(Arc::new(state))
    }

    fn begin(&self, path: &str) -> Call {
        let call = Call {
            state: Arc::clone(&self.0),
            path: path.into(),
            known: self.0.knows(path),
            begun: Instant::now(),
            ended: false,
        };
        if call.known {
            call.count_start();
        }
        call
    }
}

impl State {
    fn knows(&self, path: &str) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.contains(path)
    }

    fn learn(&self, path: &str) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(path.into());
    }
}

/// A call under way. It is counted as begun once its name is known, and as ended
/// once; as cancelled if it is dropped before.
struct Call {
    state: Arc<State>,
    path: String,
    known: bool,
    begun: Instant,
    ended: bool,
}

impl Call {
    fn count_start(&self) {
        let method = Method::of(&self.path);
        self.state.started.get_or_create(&method).inc();
    }

    /// The answer has begun, by which the name may become known.
    fn answered(&mut self, named: bool) {
        if self.known {
            return;
        }
        if named {
            self.state.learn(&self.path);
        } else {
            self.path = "unknown".into();
        }
        self.known = true;
        self.count_start();
    }

    fn ended(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        // No name is learned from a call that is given up before its answer.
        self.answered(false);
        let method = Method::of(&self.path);
        let seconds = self.begun.elapsed().as_secs_f64();
        self.state.durations.get_or_create(&method).observe(seconds);
        let handled = method.handled(code);
        self.state.handled.get_or_create(&handled).inc();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.ended(Code::Cancelled);
    }
}

impl<S> Layer<S> for GrpcMetrics {
    type Service = Counted<S>;

    fn layer(&self, service: S) -> Counted<S> {
        Counted {
            service,
            metrics: self.clone(),
        }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub(crate) struct Counted<S> {
    service: S,
    metrics: GrpcMetrics,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let mut call = self.metrics.begin(request.uri().path());
        let response = self.service.call(request);
        Box::pin(async move {
            let response = response.await?;
            let code = code(response.headers());
            // These two are answered before anybody looks for the method.
            let named = !matches!(code, Some(Code::Unimplemented | Code::Unauthenticated));
            call.answered(named && response.status() == StatusCode::OK);
            if let Some(code) = code {
                call.ended(code);
            }
            Ok(response.map(|body| CountedBody { body, call }))
        })
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers
        .get(Status::GRPC_STATUS)
        .map(|value| Code::from_bytes(value.as_bytes()))
}

/// A response whose end is counted: with the code of its trailers, or as cancelled
/// when it is dropped before those.
pub(crate) struct CountedBody<B> {
    body: B,
    call: Call,
}

impl<B: Body + Unpin> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.ended(code(trailers).unwrap_or(Code::Unknown));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
