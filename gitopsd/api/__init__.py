"""The kinds gitopsd serves, as typed frozen values, and the CRDs generated from them."""
