/// Why there is no prompt.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The checkpoint's template is no Jinja.
    #[error("parsing the chat template `{name}`")]
    Parse {
        /// Which of the checkpoint's templates.
        name: &'static str,
        /// What is wrong where.
        #[source]
        source: minijinja::Error,
    },
    /// The checkpoint has several templates and none is called `default`.
    #[error("the checkpoint has no chat template called `default`")]
    NoDefault,
    /// `chat_template` is neither a text nor a list of `name` and `template`.
    #[error("`chat_template` is neither a template nor a list of named templates")]
    Shape,
    /// The template, or the rule for the messages it gets, refuses this conversation: the client's
    /// fault.
    #[error("{message}")]
    Refused {
        /// What the template says of it.
        message: String,
    },
    /// The template needed something that the conversation does not have, or has differently.
    #[error("rendering the chat template")]
    Render {
        /// What went wrong where.
        #[source]
        source: minijinja::Error,
    },
    /// The template did more work, or wrote more text, than any conversation needs.
    #[error("the chat template did not come to an end within its bounds")]
    Unbounded,
}

impl TemplateError {
    /// Whether another conversation could be rendered: the request is at fault, not the
    /// checkpoint.
    pub fn is_request_fault(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Render { .. } | Self::Unbounded)
    }
}
