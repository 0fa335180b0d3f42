//! The method table: jsonrpsee's, behind a layer of ours.
//!
//! Every method is registered once, with a closure that asks [`Context::call`]; what belongs to a
//! call (its context, its arguments, already parsed) travels in jsonrpsee's `Extensions`, so that
//! nothing is written as JSON only to be read again. jsonrpsee writes the response. It has traps,
//! which this layer keeps from clients: its ids are strings, null and non-negative integers only
//! (others are answered under a stand-in and the envelope is written anew), its server runs
//! batches one after another and does not run notifications at all (see `jsonrpc`).

use super::dispatch::{Context, OWN, unknown_method};
use super::seam::{Caller, Events, Standing};
use futures_util::StreamExt;
use jsonrpsee::Extensions;
use jsonrpsee::core::id_providers::RandomIntegerIdProvider;
use jsonrpsee::core::server::{
    BoundedSubscriptions, ConnectionId, MethodCallback, MethodResponse, MethodSink, Methods,
    PendingSubscriptionSink, RpcModule, SubscriptionCloseResponse as Close, SubscriptionState,
};
use jsonrpsee::core::{RegisterMethodError, SubscriptionError};
use jsonrpsee::types::{ErrorObjectOwned, Id, Params as RawParams};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::{Arc, Mutex, PoisonError};
use tiebeam_proto::{ErrorCode, Params, RpcError};
use tokio::sync::mpsc;

/// What travels with one call through jsonrpsee.
struct Frame {
    context: Arc<Context>,
    params: Mutex<Option<Params>>,
}

impl Frame {
    fn take_params(&self) -> Params {
        let mut params = self.params.lock().unwrap_or_else(PoisonError::into_inner);
        params.take().unwrap_or_else(Params::none)
    }
}

/// An answer as JSON text, and its error code if it is an error.
#[derive(Debug)]
pub struct Answered {
    /// The whole JSON-RPC response.
    pub json: String,
    /// `None` for a result.
    pub code: Option<ErrorCode>,
}

/// The methods, for all connections.
#[derive(Debug)]
pub struct Table {
    calls: Methods,
    subscriptions: Methods,
}

/// The place of one `/ws` connection: where its notifications go, and its subscriptions.
#[derive(Debug)]
pub struct Subscriber {
    /// Unique among the open connections.
    pub connection: usize,
    /// The connection's way out.
    pub out: mpsc::Sender<Box<RawValue>>,
    /// The limit of its subscriptions.
    pub limit: BoundedSubscriptions,
}

impl Table {
    /// The service's methods and the front's own.
    ///
    /// # Errors
    ///
    /// If a name comes twice.
    pub fn new(methods: &[&'static str]) -> Result<Table, RegisterMethodError> {
        let mut calls = RpcModule::new(());
        for method in OWN.iter().chain(methods) {
            let method: &'static str = method;
            calls.register_async_method(method, move |_raw, _module, extensions| async move {
                let frame = extensions.get::<Arc<Frame>>().ok_or_else(no_frame)?;
                let params = frame.take_params();
                frame.context.call(method, params).await.map_err(|error| to_jsonrpsee(&error))
            })?;
        }
        let mut subscriptions = RpcModule::new(());
        subscriptions.register_subscription(
            "subscribe",
            "event",
            "unsubscribe",
            |_raw, pending, _module, extensions| deliver(pending, extensions),
        )?;
        Ok(Table { calls: calls.into(), subscriptions: subscriptions.into() })
    }

    /// Calls a method and writes its response under `id`.
    pub async fn call(
        &self,
        context: &Arc<Context>,
        id: &Value,
        method: &str,
        params: Params,
    ) -> Answered {
        let Some(MethodCallback::Async(callback)) = self.calls.method(method) else {
            return refusal(id, &unknown_method(method));
        };
        let raw = RawParams::new(None);
        let extensions = extensions(context, params);
        let response = callback(native_id(id), raw, ConnectionId(0), usize::MAX, extensions).await;
        answered(response, id)
    }

    /// Starts or ends a subscription of a `/ws` connection. The response to `subscribe` goes out
    /// by the subscriber's own way, before its first event; `None` is returned for it.
    pub async fn subscription(
        &self,
        subscriber: &Subscriber,
        context: &Arc<Context>,
        id: &Value,
        method: &str,
        params: Params,
    ) -> Option<Answered> {
        let connection = ConnectionId(subscriber.connection);
        match self.subscriptions.method(method) {
            Some(MethodCallback::Subscription(callback)) => {
                let Some(subscription_permit) = subscriber.limit.acquire() else {
                    let message = "this connection has too many subscriptions";
                    return Some(refusal(id, &RpcError::new(ErrorCode::TooBusy, message)));
                };
                let state = SubscriptionState {
                    conn_id: connection,
                    id_provider: &RandomIntegerIdProvider,
                    subscription_permit,
                };
                let sink = MethodSink::new(readdressed(&subscriber.out, id));
                let extensions = extensions(context, params);
                callback(native_id(id), RawParams::new(None), sink, state, extensions).await;
                None
            }
            Some(MethodCallback::Unsubscription(callback)) => {
                let raw = unsubscribe_argument(params).to_string();
                let raw = RawParams::new(Some(&raw));
                let response =
                    callback(native_id(id), raw, connection, usize::MAX, Extensions::new());
                Some(answered(response, id))
            }
            _ => Some(refusal(id, &unknown_method(method))),
        }
    }
}

/// A response that is an error of the layer itself.
pub fn refusal(id: &Value, error: &RpcError) -> Answered {
    let json = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{}}}"#, error.to_json());
    Answered { json, code: Some(error.code) }
}

fn extensions(context: &Arc<Context>, params: Params) -> Extensions {
    let frame = Frame { context: Arc::clone(context), params: Mutex::new(Some(params)) };
    let mut extensions = Extensions::new();
    extensions.insert(Arc::new(frame));
    extensions
}

fn to_jsonrpsee(error: &RpcError) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(error.code.number(), error.message.clone(), Some(error.data()))
}

fn no_frame() -> ErrorObjectOwned {
    to_jsonrpsee(&RpcError::new(ErrorCode::Internal, "the call lost its context"))
}

/// Serves one subscription until its events, its connection or the daemon end.
async fn deliver(pending: PendingSubscriptionSink, extensions: Extensions) -> Close {
    let Some(frame) = extensions.get::<Arc<Frame>>() else {
        pending.reject(no_frame()).await;
        return Close::None;
    };
    let context = &frame.context;
    let filter = match frame.take_params() {
        Params::Positional(list) => list.into_iter().next().unwrap_or_default(),
        Params::Named(mut map) if map.len() == 1 && map.contains_key("filter") => {
            map.remove("filter").unwrap_or_default()
        }
        Params::Named(map) => Value::Object(map),
    };
    let Some(caller) = context.caller.clone() else {
        pending.reject(to_jsonrpsee(&login_ended())).await;
        return Close::None;
    };
    match context.shared.service.subscribe(Arc::clone(&caller), filter).await {
        Ok(events) => pump(pending, events, context, &caller).await,
        Err(error) => {
            pending.reject(to_jsonrpsee(&error)).await;
            Close::None
        }
    }
}

/// The error of a call or subscription whose login is no longer good.
pub fn login_ended() -> RpcError {
    RpcError::new(ErrorCode::LoginRequired, "the login has ended")
        .hint("connect again with a new login")
}

async fn pump(
    pending: PendingSubscriptionSink,
    mut events: Events,
    context: &Context,
    caller: &Caller,
) -> Close {
    let Ok(sink) = pending.accept().await else { return Close::None };
    loop {
        let event = tokio::select! {
            biased;
            () = sink.closed() => return Close::None,
            () = context.stop.cancelled() => return Close::None,
            event = events.next() => event,
        };
        if context.shared.service.standing(caller) != Standing::Good {
            let why = serde_json::value::to_raw_value(&login_ended().to_json());
            return why
                .map_or(Close::None, |why| Close::NotifErr(SubscriptionError::from_json(why)));
        }
        let Some(event) = event else { return Close::None };
        let Ok(event) = serde_json::value::to_raw_value(&event) else { continue };
        if sink.send(event).await.is_err() {
            return Close::None;
        }
    }
}

fn unsubscribe_argument(params: Params) -> Value {
    match params {
        Params::Positional(list) => Value::Array(list),
        Params::Named(map) => Value::Array(map.get("id").cloned().into_iter().collect()),
    }
}

/// The id as jsonrpsee knows it; a stand-in for one that it cannot hold.
fn native_id(id: &Value) -> Id<'static> {
    match id {
        Value::Null => Id::Null,
        Value::String(text) => Id::Str(text.clone().into()),
        other => Id::Number(other.as_u64().unwrap_or(0)),
    }
}

fn is_native(id: &Value) -> bool {
    id.is_null() || id.is_string() || id.is_u64()
}

fn answered(response: MethodResponse, id: &Value) -> Answered {
    let code = response
        .as_error_code()
        .map(|number| ErrorCode::from_number(i64::from(number)).unwrap_or(ErrorCode::Internal));
    let json = response.into_json();
    let json =
        if is_native(id) { String::from(Box::<str>::from(json)) } else { readdress(&json, id) };
    Answered { json, code }
}

/// Writes a response's envelope anew, under the id that the client sent.
fn readdress(response: &RawValue, id: &Value) -> String {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        result: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    match serde_json::from_str::<Envelope<'_>>(response.get()) {
        Ok(Envelope { error: Some(error), .. }) => {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
        }
        Ok(Envelope { result, .. }) => {
            let result = result.map_or("null", RawValue::get);
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
        }
        Err(_not_ours) => response.get().to_owned(),
    }
}

/// The connection's way out; for an id that jsonrpsee cannot hold, one that writes the first
/// message, which is the response to `subscribe`, under the client's id.
fn readdressed(out: &mpsc::Sender<Box<RawValue>>, id: &Value) -> mpsc::Sender<Box<RawValue>> {
    if is_native(id) {
        return out.clone();
    }
    let (sender, mut messages) = mpsc::channel::<Box<RawValue>>(1);
    let (out, id) = (out.clone(), id.clone());
    tokio::spawn(async move {
        let mut first = true;
        loop {
            let message = tokio::select! {
                () = out.closed() => return,
                message = messages.recv() => message,
            };
            let Some(mut message) = message else { return };
            if std::mem::take(&mut first)
                && let Ok(renamed) = RawValue::from_string(readdress(&message, &id))
            {
                message = renamed;
            }
            if out.send(message).await.is_err() {
                return;
            }
        }
    });
    sender
}
