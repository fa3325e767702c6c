package main

// httpFlags say how the API treats its clients.
type httpFlags struct {
	Strict         bool  `help:"Refuse fields of a request that nobody knows. Default: they are ignored, with the header \"warnings\" and a line in the log."`
	MaxStopStrings count `help:"Stop strings that a request may have." default:"64"`
}
