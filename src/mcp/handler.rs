//! What the SDK asks of a server: who it is, its tools and resources, and what becomes of a call while it waits.

use super::agents::Agents;
use super::answer;
use super::calls::Calls;
use super::resources::{self, Resources};
use super::tools::{self, Kind};
use super::work::{self, Work};
use crate::clock;
use crate::limits;
use crate::wire::{self, Body, Op, Request};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CustomRequest, CustomResult, ErrorCode, Implementation,
    InitializeRequestParams, InitializeResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ProgressNotificationParam, ProgressToken, ReadResourceRequestParams, ReadResourceResponse,
    ServerCapabilities, ServerConfig, SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestParams,
};
use rmcp::service::{RequestContext, RoleServer, SubscriptionContext};
use rmcp::{ErrorData, ServerHandler};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

pub(super) struct Handler {
    agents: Arc<Agents>,
    calls: Arc<Calls>,
    /// A place for each call at once.
    places: Arc<Semaphore>,
    resources: Arc<Resources>,
}

impl Handler {
    pub(super) fn new(agents: Agents, calls: Arc<Calls>) -> Handler {
        let agents = Arc::new(agents);
        let resources = Arc::new(Resources::new(agents.clone()));
        Handler { agents, calls, places: Arc::new(Semaphore::new(limits::MCP_CALLS)), resources }
    }

    /// Tells how a call waits, if it does. Who looks may wait for the daemon as well, and is not waited for.
    async fn progress(&self, waiting: &Waiting, context: &RequestContext<RoleServer>) {
        // As the call itself was understood, which is known by now.
        let Ok(caller) = self.agents.caller(waiting.agent.as_deref(), &context.meta) else { return };
        let Some(connection) = caller.open_connection() else { return };
        let scopes = waiting.scopes.clone();
        let looked = spawn_blocking(move || {
            let mut rows = Vec::new();
            for scope in scopes {
                match connection.call(Request { scope: Some(scope), ..Request::new(Op::Status) }).ok()?.ok? {
                    Body::Status(body) => rows.extend(body.waiters),
                    _ => return None,
                }
            }
            answer::waiting(&rows, caller.agent.as_ref()?.as_str())
        });
        let Ok(Some(message)) = looked.await else { return };
        let seconds = (clock::monotonic_ns() - waiting.since) as f64 / 1e9;
        let mut told = ProgressNotificationParam::new(waiting.token.clone(), seconds).with_message(message);
        if let Some(total) = waiting.within {
            told = told.with_total(total);
        }
        // Whoever is gone needs no progress.
        let _ = context.peer.notify_progress(told).await;
    }
}

/// A call whose client wants to hear how it waits.
struct Waiting {
    token: ProgressToken,
    /// The agent that the call names.
    agent: Option<String>,
    scopes: Vec<String>,
    /// Since when, in nanoseconds of the clock.
    since: u64,
    within: Option<f64>,
}

impl Waiting {
    fn of(request: &CallToolRequestParams, context: &RequestContext<RoleServer>) -> Option<Waiting> {
        let token = context.meta.get_progress_token()?;
        let arguments = request.arguments.as_ref()?;
        let paths = arguments.get("paths").and_then(|paths| paths.as_array()).map(Vec::as_slice);
        let paths = paths.or_else(|| arguments.get("path").map(std::slice::from_ref))?;
        let scopes = paths.iter().map(|path| Some(wire::escape(path.as_str()?.as_bytes())));
        let scopes: Vec<String> = scopes.take(limits::SET_MAX).collect::<Option<_>>()?;
        let agent = work::named(arguments).ok()?.map(str::to_owned);
        let within = arguments.get("wait_seconds").map_or(Some(limits::WAIT_DEFAULT as f64 / 1000.0), |it| it.as_f64());
        Some(Waiting { token, agent, scopes, since: clock::monotonic_ns(), within })
    }
}

/// Why a call of a tool cannot be read.
fn misfit(params: Option<&Value>) -> &'static str {
    let of = |key: &str| params.and_then(|params| params.get(key));
    if !of("name").is_some_and(Value::is_string) {
        return "params must have a name, the tool's, as a string";
    }
    match of("arguments") {
        Some(arguments) if !arguments.is_object() => {
            "arguments must be an object with each argument by its name, and no text with JSON in it"
        }
        _ => "the params of this call are not as the protocol has them",
    }
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_resources_list_changed()
            .build();
        let server = Implementation::new("flockd", wire::VERSION).with_title("flockd: file locks for agents");
        ServerConfig::new(capabilities).with_server_info(server).with_instructions(tools::INSTRUCTIONS)
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        context.peer.set_peer_info(request.clone());
        let mut result = self.negotiate_initialize(&request)?;
        // In that era such notices come unasked, and every lock of anybody would wake every client.
        if let Some(resources) = &mut result.capabilities.resources {
            resources.list_changed = None;
        }
        Ok(result)
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::list()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        tools::list().into_iter().find(|tool| tool.name == name)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(kind) = Kind::named(&request.name) else {
            return Err(ErrorData::invalid_params(format!("there is no tool {:?}", request.name), None));
        };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let text = format!("{} calls are open already; wait for the answers", limits::MCP_CALLS);
            let fault = answer::Fault::new(wire::Code::TooMany, text);
            return Ok(answer::failed(&fault, &kind.nothing()).into_result().into());
        };
        let waiting = Waiting::of(&request, &context);
        let work = Work {
            kind,
            id: context.id.clone(),
            arguments: request.arguments.unwrap_or_default(),
            meta: context.meta.clone(),
            agents: self.agents.clone(),
            calls: self.calls.clone(),
        };
        let mut working = spawn_blocking(move || {
            let _place = place;
            work.run()
        });
        let every = Duration::from_millis(limits::MCP_PROGRESS_EVERY);
        let mut pause = every / 2;
        let done: Result<CallToolResult, _> = loop {
            tokio::select! {
                done = &mut working => break done,
                () = sleep(pause), if waiting.is_some() => {
                    pause = every;
                    if let Some(waiting) = &waiting {
                        tokio::select! {
                            done = &mut working => break done,
                            () = self.progress(waiting, &context) => {}
                        }
                    }
                }
            }
        };
        done.map(CallToolResponse::from).map_err(|error| ErrorData::internal_error(error.to_string(), None))
    }

    /// What the SDK cannot read as what its method says comes here as well.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        Err(match request.method.as_str() {
            "tools/call" => ErrorData::invalid_params(misfit(request.params.as_ref()), None),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                ErrorData::invalid_params("params must have a uri, as a string", None)
            }
            _ => ErrorData::new(ErrorCode::METHOD_NOT_FOUND, request.method, None),
        })
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        self.resources.list(context.meta).await.map(ListResourcesResult::with_all_items)
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates()))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        self.resources.read(request.uri, context.meta).await.map(ReadResourceResponse::from)
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.resources.subscribe(request.uri, context.peer).await
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.resources.unsubscribe(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(resources::accepted(requested))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        self.resources.listen(&context).await
    }
}
