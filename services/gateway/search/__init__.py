"""The wire types of the rerank and score APIs that clients of this field speak, and of TEI's."""
