package doctor

// Finding is one line of the report.
type Finding struct {
	// Subject is what was looked at.
	Subject string `json:"subject"`
	OK      bool   `json:"ok"`
	// Text says what is, Fix what helps where that is not well.
	Text string `json:"text"`
	Fix  string `json:"fix,omitempty"`
}

// Problems counts the findings that are not well.
func Problems(list []Finding) int {
	n := 0
	for _, f := range list {
		if !f.OK {
			n++
		}
	}
	return n
}

func well(subject, text string) Finding { return Finding{Subject: subject, OK: true, Text: text} }
