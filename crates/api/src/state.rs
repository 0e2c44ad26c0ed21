//! What every handler can reach.

use std::sync::Arc;

use dormouse_builder::Builder;
use dormouse_control::Control;
use dormouse_store::Store;

use crate::auth::KeyCache;

/// Settings of the API.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// The domain under which sandboxes can be reached, told to clients; `None`: they use their own setting (contract 1.2).
    pub domain: Option<String>,
    /// Longest request body, bytes.
    pub max_body: usize,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            domain: None,
            max_body: 2 << 20,
        }
    }
}

/// What handlers share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiState {
    pub(crate) control: Arc<Control>,
    pub(crate) store: Store,
    pub(crate) config: Arc<ApiConfig>,
    pub(crate) keys: Arc<KeyCache>,
    pub(crate) builder: Option<Arc<Builder>>,
}

impl ApiState {
    /// The API over a control plane and its database.
    #[must_use]
    pub fn new(control: Arc<Control>, store: Store, config: ApiConfig) -> Self {
        Self {
            control,
            store,
            config: Arc::new(config),
            keys: Arc::default(),
            builder: None,
        }
    }

    /// The same, able to build templates. Without a builder such requests are refused with 501.
    #[must_use]
    pub fn with_builder(mut self, builder: Arc<Builder>) -> Self {
        self.builder = Some(builder);
        self
    }
}
