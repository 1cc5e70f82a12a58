//! Both ends of a conversation between a desk and a node, without IO.
